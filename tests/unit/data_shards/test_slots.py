"""Shared slots: filled by a forked worker, read by its parent, free again when nobody looks at them."""

import gc
import os

import numpy as np
import pytest
import torch

from data_shards.slots import TileSlots


@pytest.fixture
def slots():
    return TileSlots(workers=2, per_worker=2, slot_bytes=3 * 4 * 4)


def test_each_worker_has_slots_of_its_own(slots):
    taken = [slots.take(worker) for worker in (0, 1, 0, 1)]
    assert len(set(taken)) == 4
    assert slots.take(0) is None
    assert slots.take(1) is None


def test_a_slot_that_is_put_back_is_free(slots):
    first = slots.take(0)
    slots.take(0)
    slots.put_back(first)
    assert slots.take(0) == first


def test_a_forked_worker_hands_over_its_bytes(slots):
    child = os.fork()
    if child == 0:
        slots.array(slots.take(1), (1, 4, 4, 3))[:] = np.arange(48).reshape(1, 4, 4, 3)
        os._exit(0)
    os.waitpid(child, 0)
    assert torch.equal(slots.tensor(2, (1, 4, 4, 3)), torch.arange(48, dtype=torch.uint8).view(1, 4, 4, 3))
    assert slots.take(1) == 2


def test_a_slot_is_free_once_every_view_of_it_is_gone(slots):
    first, second = slots.take(0), slots.take(0)
    tensor = slots.tensor(first, (4, 12))
    view, array = tensor[2], tensor.numpy()[1:]
    del tensor
    gc.collect()
    assert slots.take(0) is None
    del view
    gc.collect()
    assert slots.take(0) is None
    del array
    gc.collect()
    assert slots.take(0) == first != second


def test_a_tensor_outlives_its_slots():
    slots = TileSlots(workers=1, per_worker=1, slot_bytes=8)
    slots.array(slots.take(0), (8,))[:] = 3
    tensor = slots.tensor(0, (8,))
    del slots
    gc.collect()
    assert tensor.tolist() == [3] * 8
