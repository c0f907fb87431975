"""Random single faults in tars: each is found, only frames it touches are lost, none gets another's pictures."""

from collections.abc import Callable

import numpy as np
import pytest

from data_shards.index import DatasetIndex, load_index
from data_shards.read import BadSample
from tests.helpers.frames import camera_frames, read_all, write_dataset

NUM_FAULTS = 200
FRAMES = camera_frames(num_scenes=4, frames_per_scene=2)
Fault = Callable[[np.random.Generator, bytes, DatasetIndex, list[int]], bytes]


def spans(index: DatasetIndex, positions: list[int]) -> list[tuple[int, int]]:
    return [(m.offset, m.offset + m.size) for p in positions for m in index.samples[p].members.values()]


def flip_bit(rng, content, index, positions):
    begin, end = spans(index, positions)[int(rng.integers(len(spans(index, positions))))]
    at = int(rng.integers(begin, end))
    return content[:at] + bytes([content[at] ^ (1 << int(rng.integers(8)))]) + content[at + 1 :]


def truncate(rng, content, index, positions):
    last = max(end for _, end in spans(index, positions))
    return content[: int(rng.integers(0, last))]


def zero_block(rng, content, index, positions):
    begin, end = spans(index, positions)[int(rng.integers(len(spans(index, positions))))]
    block = int(rng.integers(begin // 512, -(-end // 512)))
    return content[: 512 * block] + bytes(512) + content[512 * (block + 1) :]


def swap_members(rng, content, index, positions):
    """Two whole members change places, with their headers: of two frames, or within one."""
    whole = sorted((begin - 512, -(-end // 512) * 512) for begin, end in spans(index, positions))
    i, j = sorted(rng.choice(len(whole), 2, replace=False).tolist())
    (a, b), (c, d) = whole[i], whole[j]
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("damage")
    write_dataset(directory, FRAMES, samples_per_shard=4)
    return directory


def touched(index: DatasetIndex, position: int, before: bytes, after: bytes) -> bool:
    """Whether any byte of a frame's members differs."""
    return any(before[begin:end] != after[begin:end] for begin, end in spans(index, [position]))


@pytest.mark.parametrize("fault", [flip_bit, truncate, zero_block, swap_members])
def test_each_fault_is_found_and_costs_only_the_frames_it_touches(dataset, fault):
    rng = np.random.default_rng([len(fault.__name__), *fault.__name__.encode()])
    index = load_index(dataset)
    by_shard = {
        name: [p for p, e in enumerate(index.samples) if e.shard == name] for name in {e.shard for e in index.samples}
    }
    lost = 0
    for _ in range(NUM_FAULTS // 4):
        name = sorted(by_shard)[int(rng.integers(len(by_shard)))]
        tar = dataset / name
        content = tar.read_bytes()
        damaged = fault(rng, content, index, by_shard[name])
        assert damaged != content
        tar.write_bytes(damaged)
        results = read_all(load_index(dataset))
        tar.write_bytes(content)
        expected_lost = {p for p in by_shard[name] if touched(index, p, content, damaged)}
        assert expected_lost
        for position, result in enumerate(results):
            if position in expected_lost:
                assert isinstance(result, BadSample)
                assert (result.shard, result.key) == (name, FRAMES[position].key)
            else:
                assert result == FRAMES[position]
        lost += len(expected_lost)
    assert lost >= NUM_FAULTS // 4
    assert read_all(load_index(dataset)) == FRAMES
