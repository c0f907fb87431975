from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from data_shards.chat import TokenSegments
from data_shards.collate import StepCounts, Targets, step_counts, to_tensors
from data_shards.pack import PackPart, PartMeta, build_pack, filler_pack
from data_shards.quarantine import BadRecord


def part(key, num_segments, num_tiles):
    tokens = TokenSegments(
        prefix=np.arange(3, dtype=np.int32),
        segments=tuple(np.arange(4, dtype=np.int32) + 10 * i for i in range(num_segments)),
        label_spans=(((2, 4),),) * num_segments,
    )
    meta = PartMeta(
        key=key,
        dataset="d",
        question_ids=tuple(range(num_segments)),
        kinds=("general",) * num_segments,
        unparsed_tags=1,
    )
    return PackPart(tokens=tokens, tiles=np.full((num_tiles, 2, 2, 3), 7, np.uint8), meta=meta)


@pytest.fixture
def pack():
    return build_pack([part("a", 2, 3), part("b", 1, 0)], loss_weight="square")


def test_a_batch_holds_the_arrays_of_its_pack(pack):
    batch = to_tensors(pack)
    tensors = [f.name for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)]
    assert len(tensors) == 8
    for name in tensors:
        np.testing.assert_array_equal(getattr(batch, name).numpy(), getattr(pack, name))
    assert batch.groups == pack.groups
    assert batch.dummy_tile is False


def test_a_batch_counts_samples_questions_tokens_and_tiles(pack):
    meta = to_tensors(pack).meta
    assert (meta.num_samples, meta.num_questions, meta.num_tokens, meta.num_tiles) == (2, 3, 18, 3)
    assert (meta.keys, meta.question_refs) == (("a", "b"), (("a", 0), ("a", 1), ("b", 0)))
    assert (meta.kinds, meta.datasets) == (("general",) * 3, ("d",) * 3)


def test_a_dummy_tile_is_not_counted():
    batch = to_tensors(build_pack([part("a", 1, 0)]))
    assert batch.dummy_tile
    assert len(batch.tiles) == 1
    assert batch.meta.num_tiles == 0


def test_a_batch_moves_as_a_whole(pack):
    moved = to_tensors(pack).to("meta")
    assert {getattr(moved, f.name).device.type for f in fields(moved) if hasattr(getattr(moved, f.name), "device")} == {
        "meta"
    }
    assert moved.meta == to_tensors(pack).meta


def test_the_counts_of_a_step_are_sums_over_its_micro_batches(pack):
    batches = [to_tensors(pack), to_tensors(build_pack([part("c", 1, 0)]))]
    assert step_counts(batches) == StepCounts(
        samples=3, questions=4, tokens=25, label_tokens=8, tiles=3, unparsed_tags=3
    )


def test_a_batch_names_the_frames_it_was_to_hold_as_well(pack):
    bad = (BadRecord(dataset="d", shard="s.tar", offset=0, key="c", reason="cut"),)
    batch = to_tensors(pack, bad)
    assert batch.meta.bad == bad
    assert batch.meta.num_samples == 2
    assert to_tensors(pack).meta.bad == ()


def test_a_filler_counts_as_no_sample_and_no_tile():
    batch = to_tensors(filler_pack(2, 5))
    assert step_counts([batch]) == StepCounts(
        samples=0, questions=0, tokens=1, label_tokens=0, tiles=0, unparsed_tags=0
    )


def test_every_tensor_of_a_batch_is_pinned_those_of_cached_targets_too(pack, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    targets = Targets(values=torch.zeros(3, 4, 3), indices=torch.zeros(3, 4, 2), features=None)
    replace(to_tensors(pack), targets=targets).pin_memory()
    assert len(pinned) == 8 + 2
