"""Unusable samples of a run: written once over ranks and starts, and the stop where they are too many."""

import json

import pytest

from data_shards.collate import to_tensors
from data_shards.pack import filler_pack
from data_shards.quarantine import BadRecord
from tests.helpers.dist import on_ranks
from trainer.bad_samples import QUARANTINE_FILE, BadSampleWatch, TooManyBadSamples
from trainer.dist import MainRankError


def batch(*numbers):
    bad = tuple(BadRecord(dataset="d", shard="s.tar", offset=n, key=f"a_{n}", reason="cut") for n in numbers)
    return to_tensors(filler_pack(2, None), bad)


def watch(ranks, run_dir, *, max_fraction=0.5, seen=0.0, total=20, said=None, num_known=None):
    say = (lambda text: None) if said is None else said.append
    options = {"max_fraction": max_fraction, "seen": seen, "total": total, "num_known": num_known}
    return BadSampleWatch(ranks, run_dir, say=say, **options)


def step(made, ranks, batches):
    made.update(batches, ranks.sum(made.counts(batches)))


def keys(run_dir):
    return [json.loads(line)["key"] for line in (run_dir / QUARANTINE_FILE).read_text().splitlines()]


def _two_ranks(ranks, run_dir):
    said = []
    made = watch(ranks, run_dir, said=said)
    step(made, ranks, [batch()])
    assert made.count == 0
    step(made, ranks, [batch(1, 2), batch(2)] if ranks.rank else [batch(2, 3)])
    step(made, ranks, [batch(3)] if ranks.rank else [batch(1)])  # known by now, on both ranks
    assert made.count == 3
    assert sorted(said) == [f"left out: d: s.tar: offset {n}: frame a_{n}: cut" for n in (1, 2, 3)]
    assert keys(run_dir) == ["a_1", "a_2", "a_3"]
    again = watch(ranks, run_dir, seen=2.0)  # the same run, killed and started anew
    step(again, ranks, [batch(2)] if ranks.rank else [batch(1)])
    assert again.count == 3
    assert keys(run_dir) == ["a_1", "a_2", "a_3"]
    strict = watch(ranks, run_dir, max_fraction=0.1)
    with pytest.raises(TooManyBadSamples, match=r"got 4 unusable samples.*\n  d: s.tar: offset 1: frame a_1: cut"):
        step(strict, ranks, [batch(4)] if ranks.rank else [batch()])  # found on one rank, raised on both
    assert keys(run_dir) == ["a_1", "a_2", "a_3", "a_4"]


def test_two_ranks_write_each_sample_once_and_stop_together(tmp_path):
    on_ranks(_two_ranks, tmp_path)


class _Alone:
    """Stands for `Ranks` of a world of one, and counts collectives."""

    calls = 0

    def on_main(self, act):
        self.calls += 1
        return act()

    def gather(self, value):
        self.calls += 1
        return [value]


def test_a_step_without_a_new_bad_sample_needs_no_collective_of_its_own(tmp_path):
    ranks = _Alone()
    made = watch(ranks, tmp_path)
    for batches in ([batch()], [batch(1)], [batch(1)], [batch(1), batch()]):
        made.update(batches, made.counts(batches))
    assert ranks.calls == 1 + 2
    assert not (tmp_path / "other").exists()


def test_samples_seen_count_the_bad_ones_too(tmp_path):
    made = watch(_Alone(), tmp_path)
    assert made.counts([batch(1, 2), batch(2)]) == [2.0, 3.0]


def test_a_run_that_was_stopped_stops_at_the_same_step_again_and_writes_nothing_twice(tmp_path):
    made = watch(_Alone(), tmp_path, total=20, max_fraction=0.1)
    made.update([batch(1)], made.counts([batch(1)]))
    at_checkpoint, seen = made.count, made.seen
    assert (at_checkpoint, seen) == (1, 1.0)
    steps = [[batch(2)], [batch()], [batch(3)]]
    for _ in range(3):
        for number, step in enumerate(steps):
            if number < 2:
                made.update(step, made.counts(step))
            else:
                with pytest.raises(TooManyBadSamples, match="got 3 unusable"):
                    made.update(step, made.counts(step))
        assert keys(tmp_path) == ["a_1", "a_2", "a_3"]
        made = watch(_Alone(), tmp_path, total=20, max_fraction=0.1, num_known=at_checkpoint, seen=seen)
        assert made.count == at_checkpoint


def test_the_refusal_names_whole_numbers_that_are_allowed(tmp_path):
    made = watch(_Alone(), tmp_path, total=24, max_fraction=0.2)
    with pytest.raises(TooManyBadSamples, match="got 5 unusable.*allows 4 found when all are.*and 4 found when they"):
        made.update([batch(1, 2, 3, 4, 5)], made.counts([batch(1, 2, 3, 4, 5)]))


def test_a_stopped_run_whose_shards_were_mended_goes_on(tmp_path):
    stopped = watch(_Alone(), tmp_path, total=20, max_fraction=0.1)
    with pytest.raises(TooManyBadSamples):
        stopped.update([batch(1, 2, 3)], stopped.counts([batch(1, 2, 3)]))
    said = []
    made = watch(_Alone(), tmp_path, total=20, max_fraction=0.1, num_known=0, said=said)
    for step in ([batch()], [batch(3)], [batch(4)]):
        made.update(step, made.counts(step))
    assert keys(tmp_path) == ["a_1", "a_2", "a_3", "a_4"]
    assert said == ["left out: d: s.tar: offset 4: frame a_4: cut"]


def records(count):
    return [record for record in batch(*range(count)).meta.bad]


def test_samples_found_by_counting_are_written_and_judged_by_all_samples(tmp_path):
    said = []
    say = said.append
    options = {"max_fraction": 0.1, "seen": 0.0, "say": say}
    made = BadSampleWatch(_Alone(), tmp_path / "run", total=200, counted=records(20), **options)
    assert made.count == 20
    assert len(keys(tmp_path / "run")) == 20
    assert len(said) == 11
    assert said[-1].startswith("left out: 10 more")
    BadSampleWatch(_Alone(), tmp_path / "run", total=200, counted=records(20), **options)
    assert len(keys(tmp_path / "run")) == 20
    with pytest.raises(TooManyBadSamples, match="got 21 unusable samples of 200.*allows 20 found when all are counted"):
        BadSampleWatch(_Alone(), tmp_path / "other", total=200, counted=records(21), **options)
    assert len(keys(tmp_path / "other")) == 21
    assert len(said) == 11  # the refusal itself shows the first cases
    with pytest.raises(TooManyBadSamples, match="got 21"):  # nothing is new to a second start
        BadSampleWatch(_Alone(), tmp_path / "other", total=200, counted=records(21), **options)


def test_samples_found_by_counting_do_not_use_up_what_may_be_found_later(tmp_path):
    made = BadSampleWatch(
        _Alone(), tmp_path, max_fraction=0.1, seen=0.0, total=100, counted=records(10), say=lambda text: None
    )
    step = [batch(*range(10, 20))]
    made.update(step, made.counts(step))
    with pytest.raises(TooManyBadSamples, match="got 21 unusable"):
        made.update([batch(20)], made.counts([batch(20)]))


def test_the_stop_ends_the_command_as_a_failure():
    assert issubclass(TooManyBadSamples, MainRankError)
