"""A rank that works longer than the others is measured by the middle one of them, and named once."""

import pytest

from trainer.stragglers import Stragglers, slow_ranks


@pytest.mark.parametrize(
    ("own_work", "expected"),
    [
        ([1.0, 1.1, 5.0, 0.9], {2: 5.0}),
        ([2.0, 2.1], {}),
        ([2.0, 4.0], {1: 2.0}),
        ([3.0], {}),
        ([0.1, 0.4], {}),
    ],
)
def test_slow_ranks_are_measured_by_the_middle_of_the_others(own_work, expected):
    assert slow_ranks(own_work) == pytest.approx(expected)


def test_a_straggler_is_named_once_after_three_windows_in_a_row():
    said = []
    stragglers = Stragglers(said.append)
    for own_work in ([2.0, 9.0], [2.0, 9.0], [2.0, 2.0], [2.0, 9.0], [2.0, 9.0]):
        stragglers.update(own_work)
    assert not said
    stragglers.update([2.0, 8.0])
    stragglers.update([2.0, 8.0])
    assert len(said) == 1
    assert "rank 1 holds the others up: 4.0 times" in said[0]
