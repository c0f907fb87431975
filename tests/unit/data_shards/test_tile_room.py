"""Tiles of a pack given out frame by frame, as a worker of a loader asks for them."""

import numpy as np
import pytest

from data_shards import tile_room
from data_shards.slots import TileSlots
from data_shards.tile_room import TileRoom

SIDE = 2


class _Worker:
    id = 0


@pytest.fixture
def slots(monkeypatch):
    """One slot with room for at least five tiles."""
    monkeypatch.setattr(tile_room, "get_worker_info", _Worker)
    return TileSlots(workers=1, per_worker=1, slot_bytes=5 * 3 * SIDE**2)


def test_tiles_kept_lie_in_a_row_of_the_slot_and_others_are_given_out_again(slots):
    room = TileRoom(slots, SIDE)
    for count, value, kept in ((2, 1, True), (3, 9, False), (1, 2, True), (0, 0, True)):
        room.allocate(count)[:] = value
        if kept:
            room.keep(count)
    row = room.row()
    assert row[:, 0, 0, 0].tolist() == [1, 1, 2]
    assert np.shares_memory(row, slots.array(room.slot, (3, SIDE, SIDE, 3)))
    assert slots.take(0) is None
    room.close()
    assert slots.take(0) is not None


def test_more_tiles_than_a_slot_holds_come_in_fresh_memory(slots):
    room = TileRoom(slots, SIDE)
    first = room.allocate(2)
    first[:] = 5
    room.keep(2)
    many = room.allocate(slots.slot_bytes)
    assert many.shape == (slots.slot_bytes, SIDE, SIDE, 3)
    room.keep(len(many))
    assert room.row() is None
    assert (first == 5).all()


def test_without_a_free_slot_or_a_worker_memory_is_fresh(slots, monkeypatch):
    held = TileRoom(slots, SIDE)
    other = TileRoom(slots, SIDE)
    assert (held.slot, other.slot) == (0, None)
    other.allocate(3)
    other.keep(3)
    assert other.row() is None
    other.close()
    assert slots.take(0) is None
    monkeypatch.setattr(tile_room, "get_worker_info", lambda: None)
    assert TileRoom(slots, SIDE).slot is None
