"""A request to stop in; what the ranks make of it together out."""

from trainer.dist import Ranks
from trainer.state import StopRequest


class BrokenOff(Exception):  # noqa: N818
    """A rank was asked to stop amid work that takes longer than a stop leaves time for; raised on all ranks."""


class StopCheck:
    """Whether this rank, or another one, was asked to stop; made on all ranks."""

    def __init__(self, stop: StopRequest, ranks: Ranks) -> None:
        self._stop, self._ranks = stop, ranks
        self._flag = ranks.flag("stop")

    def __bool__(self) -> bool:
        """Whether this rank was asked."""
        return bool(self._stop)

    def noticed(self) -> bool:
        """Whether some rank was asked and has come to say so here; waits for no rank."""
        if self._stop:
            self._flag.put_up()
        return self._flag.is_up()

    def together(self) -> None:
        """Go on or break off, all ranks alike; called on all of them.

        Raises:
            BrokenOff: a rank was asked.
        """
        if self._ranks.any(bool(self._stop)):
            raise BrokenOff
