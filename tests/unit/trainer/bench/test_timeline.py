"""A timeline's parts add up to the step, and what interrupts a part is taken out of it."""

from types import SimpleNamespace

import pytest
import torch

from trainer.bench import timeline as module
from trainer.bench.timeline import Timeline

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for `passes`."""
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def passes(seconds):
        now[0] += seconds

    return passes


def test_parts_add_up_to_the_step_and_interruptions_are_parts_of_their_own(clock):
    timeline = Timeline(CPU)
    timeline.begin()
    for _ in range(2):
        clock(2.0)
        with timeline.interrupted("communication"):
            clock(5.0)
    clock(1.0)
    timeline.mark("first")
    clock(3.0)
    timeline.mark("second")
    assert timeline.seconds() == [{"communication": 10.0, "first": 5.0, "second": 3.0, "step": 18.0}]


def test_a_part_that_comes_twice_counts_together(clock):
    timeline = Timeline(CPU)
    timeline.begin()
    for name, seconds in (("a", 1.0), ("b", 2.0), ("a", 4.0)):
        clock(seconds)
        timeline.mark(name)
    assert timeline.seconds() == [{"a": 5.0, "b": 2.0, "step": 7.0}]


def test_nothing_is_marked_outside_a_step(clock):
    timeline = Timeline(CPU)
    timeline.mark("early")
    with timeline.interrupted("early"):
        clock(1.0)
    timeline.begin()
    clock(1.0)
    timeline.mark("a")
    timeline.end()
    clock(1.0)
    timeline.mark("late")
    with timeline.interrupted("late"):
        clock(1.0)
    assert timeline.seconds() == [{"a": 1.0, "step": 1.0}]
    timeline.clear()
    assert timeline.seconds() == []


def test_an_interruption_within_another_one_belongs_to_that(clock):
    timeline = Timeline(CPU)
    timeline.begin()
    clock(1.0)
    with timeline.interrupted("outer"):
        clock(2.0)
        with timeline.interrupted("inner"):
            clock(4.0)
        clock(8.0)
    timeline.mark("a")
    assert timeline.seconds() == [{"outer": 14.0, "a": 1.0, "step": 15.0}]
