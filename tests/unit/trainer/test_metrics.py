"""Metric windows on a group of one."""

import pytest
import torch

from data_shards.collate import StepCounts
from trainer.metrics import MetricWindow


class _Alone:
    """Stands for `Ranks` of a world of one."""

    def sum(self, values):
        return [float(value) for value in values]

    max = sum


def _counts(samples: int) -> StepCounts:
    return StepCounts(samples=samples, questions=2 * samples, tokens=50, label_tokens=5, tiles=3)


def test_means_are_weighted_and_names_without_weight_are_left_out():
    window = MetricWindow(names=("a", "b", "accuracy/tokens"))
    window.add_means({"a": (torch.tensor(6.0), 2.0), "b": (torch.tensor(0.0), torch.tensor(0.0))})
    window.add_means({"a": (torch.tensor(2.0), torch.tensor(6.0)), "accuracy/tokens": (torch.tensor(1.0), 4.0)})
    window.losses.append(torch.tensor(0.5, dtype=torch.float64))
    window.add_counts(_counts(4), fill_tokens=0.5, fill_tiles=0.25)
    window.seconds, window.data_wait = 2.0, 0.5
    values = window.reduce(_Alone(), packs=1).scalars()
    assert values["loss/a"] == pytest.approx(1.0)
    assert "loss/b" not in values
    assert values["accuracy/tokens"] == pytest.approx(0.25)
    assert values["loss/total"] == 0.5
    assert values["rate/samples_per_s"] == 2.0
    assert values["rate/questions_per_s"] == 4.0
    assert values["rate/data_wait"] == 0.25
    assert values["pack/fill_tokens"] == 0.5
    assert values["data/quarantined"] == 0.0


def test_window_starts_anew_after_it_was_read():
    window = MetricWindow(names=("a",))
    window.losses += [torch.tensor(1.0), torch.tensor(3.0)]
    window.add_counts(_counts(1), fill_tokens=1.0, fill_tiles=1.0)
    assert window.reduce(_Alone(), packs=2).losses == [1.0, 3.0]
    assert window.losses == []
    assert window.counts == {}


def test_metric_that_was_not_announced_is_a_bug():
    with pytest.raises(AssertionError, match="stray"):
        MetricWindow(names=("a",)).add_means({"stray": (torch.tensor(1.0), 1.0)})


def test_samples_left_out_are_counted_over_the_whole_run():
    window = MetricWindow(names=(), quarantined=3)
    assert window.reduce(_Alone(), packs=1).scalars()["data/quarantined"] == 3.0
    assert window.reduce(_Alone(), packs=1).scalars()["data/quarantined"] == 3.0
