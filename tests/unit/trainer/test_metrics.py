"""Metric windows on a group of one, and of two."""

import pytest
import torch

from data_shards.collate import StepCounts
from trainer.metrics import MetricWindow
from trainer.utilisation import TrainFlops


class _Alone:
    """Stands for `Ranks` of a world of one."""

    rank, world_size = 0, 1

    def sum(self, values):
        return [float(value) for value in values]

    max = sum


class _First:
    """The first of two ranks; the second has done `others`, which sums and maxima see."""

    rank, world_size = 0, 2

    def __init__(self, sums, maxima):
        self.sums, self.maxima = sums, maxima

    def sum(self, values):
        return [float(own) + other for own, other in zip(values, self.sums, strict=True)]

    def max(self, values):
        return [max(float(own), other) for own, other in zip(values, self.maxima, strict=True)]


def _counts(samples: int) -> StepCounts:
    return StepCounts(samples=samples, questions=2 * samples, tokens=50, label_tokens=5, tiles=3, unparsed_tags=1)


def _step(window: MetricWindow, number: int, loss: float | None, useful: float = 0.0, hardware: float = 0.0) -> None:
    if loss is not None:
        window.add_loss(number, torch.tensor(loss, dtype=torch.float64))
    window.add_counts(_counts(4), TrainFlops(useful=useful, hardware=hardware), fill_tokens=0.5, fill_tiles=0.25)


def _reduce(window: MetricWindow, ranks=None, packs: int = 1, **settings):
    defaults = {"squares": {}, "waited": 0.0, "memory": 1.0}
    return window.reduce(ranks or _Alone(), packs=packs, **(defaults | settings))


def test_means_are_weighted_and_names_without_weight_are_left_out():
    window = MetricWindow(names=("a", "b", "accuracy/tokens"))
    window.add_means({"a": (torch.tensor(6.0), 2.0), "b": (torch.tensor(0.0), torch.tensor(0.0))})
    window.add_means({"a": (torch.tensor(2.0), torch.tensor(6.0)), "accuracy/tokens": (torch.tensor(1.0), 4.0)})
    _step(window, 1, 0.5)
    window.seconds, window.data_wait = 2.0, 0.5
    values = _reduce(window).scalars()
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
    _step(window, 7, 1.0)
    _step(window, 9, 3.0)
    means = _reduce(window, packs=2)
    assert list(means.losses) == [1.0, 3.0]
    assert means.steps == (7, 9)
    assert window.losses == window.steps == window.flops == []
    assert window.counts == {}


def test_metric_that_was_not_announced_is_a_bug():
    with pytest.raises(AssertionError, match="stray"):
        MetricWindow(names=("a",)).add_means({"stray": (torch.tensor(1.0), 1.0)})


def test_samples_left_out_and_steps_skipped_are_counted_over_the_whole_run():
    window = MetricWindow(names=(), quarantined=3, skipped=2)
    for _ in range(2):
        values = _reduce(window).scalars()
        assert values["data/quarantined"] == 3.0
        assert values["data/skipped_steps"] == 2.0


def test_a_window_of_skipped_steps_has_rates_and_no_loss():
    window = MetricWindow(names=())
    _step(window, 1, None)
    window.seconds = 2.0
    values = _reduce(window).scalars()
    assert "loss/total" not in values
    assert values["rate/step_seconds"] == 2.0


def test_utilisation_is_flops_over_seconds_ranks_and_peak():
    window = MetricWindow(names=())
    _step(window, 1, 1.0, useful=3e12, hardware=4e12)
    _step(window, 2, 1.0, useful=1e12, hardware=2e12)
    window.seconds = 2.0
    means = _reduce(window)
    values = means.scalars(peak=8e12)
    assert values["utilisation/mfu"] == pytest.approx(0.25)
    assert values["utilisation/hardware"] == pytest.approx(0.375)
    assert values["rate/useful_tflops"] == pytest.approx(2.0)
    assert "utilisation/mfu" not in means.scalars()


def test_two_ranks_add_up_and_the_dearest_and_busiest_are_seen():
    window = MetricWindow(names=(), modules=("vision", "language"))
    _step(window, 1, 1.0, useful=1.0, hardware=6.0)
    window.seconds = 5.0
    # eight counts, the loss, squares, whether they are known, own work of both ranks, useful and hardware FLOPs
    other = [4, 8, 50, 5, 3, 6, 0.5, 0.25, 2.0, 7.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0]
    ranks = _First(other, [4.0, 0.0, 9.0, 2.0])
    means = _reduce(window, ranks, packs=2, squares={"vision": 9.0}, waited=2.0, memory=3.0)
    values = means.scalars(peak=1.0)
    assert values["loss/total"] == 3.0
    assert values["grad_norm/vision"] == 4.0
    assert "grad_norm/language" not in values, "no gradient of it is seen on any rank, which is not a norm of 0"
    assert values["ranks/cost_balance"] == pytest.approx(6.0 / 4.0)
    assert list(means.own_work) == [3.0, 1.0]
    assert values["ranks/slowest_over_median"] == pytest.approx(1.5)
    assert values["memory/gib"] == 9.0
    assert values["data/unparsed_tags"] == 7
    assert values["utilisation/mfu"] == pytest.approx(2.0 / 5.0 / 2)
