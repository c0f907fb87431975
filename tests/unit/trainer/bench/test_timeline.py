"""A timeline's parts add up to the step, and what interrupts a part is taken out of it."""

import time

import pytest
import torch

from trainer.bench.timeline import Timeline

CPU = torch.device("cpu")


def test_parts_add_up_to_the_step_and_interruptions_are_parts_of_their_own():
    timeline = Timeline(CPU)
    timeline.begin()
    for _ in range(2):
        time.sleep(0.02)
        with timeline.interrupted("communication"):
            time.sleep(0.05)
    time.sleep(0.02)
    timeline.mark("first")
    time.sleep(0.03)
    timeline.mark("second")
    (parts,) = timeline.seconds()
    assert set(parts) == {"first", "communication", "second", "step"}
    assert sum(parts.values()) == pytest.approx(2 * parts["step"], rel=1e-9)
    assert 0.06 <= parts["first"] < 0.09
    assert 0.10 <= parts["communication"] < 0.13
    assert 0.03 <= parts["second"] < 0.06


def test_a_part_that_comes_twice_counts_together():
    timeline = Timeline(CPU)
    timeline.begin()
    timeline.mark("a")
    timeline.mark("b")
    time.sleep(0.02)
    timeline.mark("a")
    (parts,) = timeline.seconds()
    assert parts["a"] >= 0.02 > parts["b"]


def test_nothing_is_marked_outside_a_step():
    timeline = Timeline(CPU)
    timeline.mark("early")
    with timeline.interrupted("early"):
        pass
    timeline.begin()
    timeline.mark("a")
    timeline.end()
    timeline.mark("late")
    with timeline.interrupted("late"):
        pass
    assert [set(parts) for parts in timeline.seconds()] == [{"a", "step"}]
    timeline.clear()
    assert timeline.seconds() == []


def test_an_interruption_within_another_one_belongs_to_that():
    timeline = Timeline(CPU)
    timeline.begin()
    time.sleep(0.02)
    with timeline.interrupted("outer"):
        time.sleep(0.02)
        with timeline.interrupted("inner"):
            time.sleep(0.02)
    timeline.mark("a")
    (parts,) = timeline.seconds()
    assert set(parts) == {"a", "outer", "step"}
    assert parts["outer"] >= 0.04 > parts["a"] >= 0.02
