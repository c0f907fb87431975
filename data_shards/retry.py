"""A request that may fail in, its answer out: tried again after growing, jittered waits."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from data_shards.storage import Unreachable

T = TypeVar("T")


class Transient(Exception):  # noqa: N818
    """A failure that another try may mend: a dropped connection, a time-out, an overloaded server."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often and how long.

    Attributes:
        attempts: tries in all.
        first_wait, longest_wait: seconds; each wait is twice the one before, times a random factor in [0.5, 1.5).
    """

    attempts: int = 9
    first_wait: float = 0.2
    longest_wait: float = 20.0

    def run(self, act: Callable[[], T], what: str) -> T:
        """The result of `act`, tried again where it raises `Transient`.

        Args:
            what: names the request in the error.

        Raises:
            Unreachable: every try failed.
        """
        for attempt in range(self.attempts):
            try:
                return act()
            except Transient as error:
                if attempt + 1 == self.attempts:
                    raise Unreachable(f"{what}: {error}; tried {self.attempts} times") from error
                wait = min(self.longest_wait, self.first_wait * 2**attempt)
                time.sleep(wait * (0.5 + random.random()))
        raise AssertionError("attempts is at least 1")
