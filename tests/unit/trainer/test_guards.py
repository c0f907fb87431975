"""Skipped steps, losses that jump and memory that runs out, each with the samples concerned."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer import validation_answers
from trainer.guards import OutOfMemory, StepGuard, TooManySkipped, explained_memory, is_spike
from trainer.recipe import DataSection
from trainer.state import TrainState


class _Pair:
    """Stands for the first of two ranks; the other gives `answer` whenever values are gathered."""

    rank, world_size = 0, 2

    def __init__(self, answer):
        self.answer = answer

    def gather(self, value):
        return [value, self.answer]

    def on_main(self, act):
        return act()


def batch(*keys, tokens=100, tiles=4):
    meta = SimpleNamespace(keys=keys, num_tokens=tokens, num_tiles=tiles)
    return SimpleNamespace(meta=meta, label_targets=torch.zeros(7))


def guard(tmp_path, said, *, max_skipped=3, step=0, losses=(), answer=None):
    ranks = _Pair([{"rank": 1, "loss": None, "keys": ["b0"]}] if answer is None else answer)
    state = TrainState(step=step).with_losses(losses)
    return StepGuard(ranks, tmp_path, max_skipped=max_skipped, state=state, say=said.append)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_skipped_step_is_written_down_with_the_samples_of_all_ranks(tmp_path):
    said = []
    one = guard(tmp_path, said)
    one.skipped(5, [batch("a0", "a1")], [torch.tensor(2.5)])
    assert rows(tmp_path / "skipped.jsonl") == [
        {
            "step": 5,
            "packs": [{"rank": 0, "loss": 2.5, "keys": ["a0", "a1"]}, {"rank": 1, "loss": None, "keys": ["b0"]}],
        }
    ]
    assert one.count == 1
    assert "step 5 skipped, the loss of rank 1 is not finite: frames b0" in said[0]


def test_a_gradient_that_is_not_finite_blames_all_packs(tmp_path):
    said = []
    one = guard(tmp_path, said, answer=[{"rank": 1, "loss": 1.0, "keys": ["b0"]}])
    one.skipped(5, [batch("a0")], [torch.tensor(2.5)])
    assert "a gradient is not finite: frames a0, b0" in said[0]


def test_the_run_stops_after_so_many_in_a_row_and_not_before(tmp_path):
    one = guard(tmp_path, [], max_skipped=3)
    for step in (1, 2):
        one.skipped(step, [batch("a")], [torch.tensor(1.0)])
    one.applied(3, [batch("a")])
    for step in (4, 5):
        one.skipped(step, [batch("a")], [torch.tensor(1.0)])
    with pytest.raises(TooManySkipped, match=r"max_skipped: got 3 steps in a row .* step 6"):
        one.skipped(6, [batch("a")], [torch.tensor(1.0)])


def test_a_resumed_run_counts_on_and_drops_what_it_does_again(tmp_path):
    first = guard(tmp_path, [], max_skipped=9)
    for step in (2, 4, 5, 7):
        first.skipped(step, [batch("a")], [torch.tensor(1.0)])
    (tmp_path / "skipped.jsonl").open("a").write('{"step": 8, "pa')
    again = guard(tmp_path, [], max_skipped=3, step=5)
    assert again.count == 3
    assert [row["step"] for row in rows(tmp_path / "skipped.jsonl")] == [2, 4, 5]
    with pytest.raises(TooManySkipped):
        again.skipped(6, [batch("a")], [torch.tensor(1.0)])


def test_what_a_power_cut_left_in_the_files_is_dropped(tmp_path):
    (tmp_path / "spikes.jsonl").write_text('{"step": 1, "loss": 9.0}\n' + "\0" * 40)
    (tmp_path / "skipped.jsonl").write_text('{"step": 2, "packs": []}\n' + "\0" * 40 + '\n{"step": 4, "packs": []}\n')
    assert guard(tmp_path, [], step=4).count == 2
    assert [row["step"] for row in rows(tmp_path / "skipped.jsonl")] == [2, 4]
    assert [row["step"] for row in rows(tmp_path / "spikes.jsonl")] == [1]


def test_a_spike_is_reported_with_the_samples_of_its_step(tmp_path):
    said = []
    one = guard(tmp_path, said, answer=[("b0",)])
    losses = (2.0 + 0.01 * np.random.default_rng(0).standard_normal(30)).tolist()
    for step, loss in enumerate(losses, 1):
        one.applied(step, [batch(f"a{step}")])
        one.read_losses({step: loss})
    assert not said
    one.applied(31, [batch("a31")])
    one.applied(32, [batch("a32")])
    one.read_losses({31: 2.0, 32: 9.0})
    (row,) = rows(tmp_path / "spikes.jsonl")
    assert (row["step"], row["loss"], row["keys"]) == (32, 9.0, ["a32", "b0"])
    assert "at step 32" in said[0]


def test_a_resumed_run_knows_a_spike_from_the_losses_before_the_stop(tmp_path):
    said = []
    losses = (2.0 + 0.01 * np.random.default_rng(0).standard_normal(30)).tolist()
    one = guard(tmp_path, said, step=30, losses=losses, answer=[("b0",)])
    one.applied(31, [batch("a31")])
    one.read_losses({31: 9.0})
    assert "at step 31" in said[0]


def test_a_full_disk_keeps_the_names_of_samples_in_memory(tmp_path):
    said = []
    one = guard(tmp_path, said)
    (tmp_path / "skipped.jsonl").symlink_to("/dev/full")
    one.skipped(5, [batch("a0")], [torch.tensor(2.5)])
    assert "cannot be written" in said[0]
    assert "step 5 skipped" in said[1]
    (tmp_path / "skipped.jsonl").unlink()
    one.skipped(6, [batch("a1")], [torch.tensor(2.5)])
    assert [row["step"] for row in rows(tmp_path / "skipped.jsonl")] == [5, 6]


def test_spikes_are_judged_by_median_and_spread():
    rng = np.random.default_rng(1)
    noisy = (3.0 + 0.3 * rng.standard_normal(100)).tolist()
    assert not any(is_spike(value, noisy) for value in noisy)
    assert is_spike(6.0, noisy)
    assert is_spike(9.0, [*noisy[:80], *[50.0] * 20])  # outliers among the former do not hide it
    assert not is_spike(6.0, noisy[:19])
    assert not is_spike(2.0, [1.99] * 50)
    assert is_spike(2.2, [1.99] * 50)
    assert not is_spike(0.5, noisy)


def test_out_of_memory_names_the_pack_and_the_limits():
    limits = DataSection(datasets=(), max_tokens=16384, max_tiles=48)
    text = r"pack of 900 tokens \(data.max_tokens 16384\), 40 tiles \(data.max_tiles 48\) and 7 .* frames k1; .*"
    with pytest.raises(OutOfMemory, match=text), explained_memory(limits, batch("k1", tokens=900, tiles=40)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")


def test_what_may_be_changed_in_a_run_comes_first_in_the_advice():
    limits = DataSection(datasets=())
    text = r"\(model\.checkpointing; this run then goes on\), or lower data\.max_tokens or data\.max_tiles: CUDA"
    with pytest.raises(OutOfMemory, match=text), explained_memory(limits, batch("k1")):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("allocate", [lambda: torch.empty(1 << 60), lambda: np.empty(1 << 52)])
def test_the_hosts_memory_is_memory_too(allocate):
    with pytest.raises(OutOfMemory, match="frames k1"), explained_memory(DataSection(datasets=()), batch("k1")):
        allocate()


def test_answers_that_find_no_memory_say_what_to_do(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(validation_answers, "_whole", full)
    with pytest.raises(OutOfMemory, match=r"at the answers of validation; lower validation\.max_new_tokens, or set"):
        validation_answers.answer_scores([], None, None, None, print, None)


def test_other_errors_come_through_as_they_are():
    limits = DataSection(datasets=())
    with pytest.raises(RuntimeError, match="^shape$"), explained_memory(limits, batch("k1")):
        raise RuntimeError("shape")
