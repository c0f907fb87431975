"""Packs with the windows that come before them, against the rules written out."""

from itertools import chain, islice

import numpy as np
import pytest

from data_shards import read_ahead
from data_shards.plan import PackPlan, Visit
from data_shards.read_ahead import MOST_GAP, WINDOW_BYTES, Span, with_windows

FRAME = 100_000
PER_SHARD = 50


def span_of(dataset, sample):
    """Frames of 100 kB side by side, 50 a tar; those of dataset 1 are not fetched ahead."""
    if dataset == 1:
        return None
    return Span(shard=f"{sample // PER_SHARD}.tar", offset=512 + sample % PER_SHARD * FRAME, size=FRAME - 512)


def packs(order, per_pack=3, dataset=0):
    visits = [Visit(dataset=dataset, sample=int(sample), questions=(0,)) for sample in order]
    return [PackPlan(visits=tuple(visits[i : i + per_pack])) for i in range(0, len(visits), per_pack)]


def taken(plans, budget=1 << 40):
    return list(islice(with_windows(iter(plans), span_of, budget), len(plans)))


def test_packs_keep_their_order_and_each_frame_is_fetched_once_before_its_first_visit():
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(3 * PER_SHARD), 2))
    plans = packs(order)
    made = taken(plans)
    assert [plan.visits for plan in made] == [plan.visits for plan in plans]
    fetched, where = [], {}
    for number, plan in enumerate(made):
        for window in plan.windows:
            fetched += window.spans
            where |= {(span.shard, span.offset): number for span in window.spans}
        for visit in plan.visits:
            span = span_of(0, visit.sample)
            assert where[span.shard, span.offset] <= number
    assert len(fetched) == len(set(fetched)) == 3 * PER_SHARD


def test_windows_are_of_one_tar_and_no_longer_than_the_limit():
    made = taken(packs(np.random.default_rng(1).permutation(3 * PER_SHARD)))
    windows = list(chain.from_iterable(plan.windows for plan in made))
    for window in windows:
        assert len({span.shard for span in window.spans}) == 1
        assert window.spans[-1].offset + window.spans[-1].size - window.spans[0].offset <= WINDOW_BYTES
        offsets = [span.offset for span in window.spans]
        assert offsets == sorted(offsets)
    assert len(windows) == 3 * -(-PER_SHARD * FRAME // WINDOW_BYTES)  # 6 requests for 150 frames


@pytest.mark.parametrize("apart", [1, 2])
def test_frames_far_from_each_other_are_read_one_by_one(apart):
    made = taken(packs(range(0, PER_SHARD, apart)))
    fetched = sum(len(window.spans) for plan in made for window in plan.windows)
    assert FRAME > MOST_GAP
    assert fetched == (PER_SHARD if apart == 1 else 0)


def test_no_more_is_fetched_ahead_than_may_wait():
    plans = packs(range(2 * PER_SHARD), per_pack=1)
    fetched = [
        (number, window) for number, plan in enumerate(taken(plans, budget=5 * FRAME)) for window in plan.windows
    ]
    assert len(fetched) >= len(plans) // 6
    for number, window in fetched:
        assert len(window.spans) <= 6
        assert window.spans[0].offset == span_of(0, number).offset


def test_a_store_that_is_near_is_asked_frame_by_frame():
    assert not [plan for plan in taken(packs(range(20), dataset=1)) if plan.windows]


def test_an_endless_order_is_looked_at_in_parts(monkeypatch):
    monkeypatch.setattr(read_ahead, "MOST_PACKS", 7)
    looked = 0

    def endless():
        nonlocal looked
        while True:
            looked += 1
            yield PackPlan(visits=(Visit(dataset=0, sample=looked % 10, questions=(0,)),))

    assert len(list(islice(with_windows(endless(), span_of, 1 << 40), 8))) == 8
    assert looked == 14
