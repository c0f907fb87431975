"""Seconds that each rank was at work in a window of steps in; ranks that hold the others up, named, out."""

import bisect
from collections.abc import Callable, Sequence

FACTOR = 1.5
"""A straggler is more than so many times as long at work as the middle rank of the others."""

WINDOWS = 3
"""In a row, after which a straggler is named."""

_LEAST_S = 1.0
"""Shorter windows tell nothing."""


class Stragglers:
    """Names ranks that work clearly longer than the others, after some windows in which they did."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._in_row: dict[int, int] = {}

    def update(self, own_work: Sequence[float]) -> None:
        """Take in the seconds of each rank in a window in which it did not wait for another."""
        slow = slow_ranks(own_work)
        self._in_row = {rank: self._in_row.get(rank, 0) + 1 for rank in slow}
        for rank, windows in self._in_row.items():
            if windows == WINDOWS:
                self._say(
                    f"rank {rank} holds the others up: {slow[rank]:.1f} times as long at work as the middle rank, in "
                    f"{WINDOWS} windows in a row; look at its machine, its data path, and what else runs there"
                )


def slow_ranks(own_work: Sequence[float]) -> dict[int, float]:
    """Stragglers of one window, each with how many times as long as the middle rank of the others it was at work."""
    ascending = sorted(own_work)
    slow: dict[int, float] = {}
    if len(ascending) < 2:
        return slow
    place = (len(ascending) - 2) // 2
    for rank, seconds in enumerate(own_work):
        middle = ascending[place + (place >= bisect.bisect_left(ascending, seconds))]
        if seconds > max(FACTOR * middle, _LEAST_S):
            slow[rank] = seconds / max(middle, 1e-9)
    return slow
