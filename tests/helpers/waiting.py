"""A condition in; comes back when it holds, however slow the machine is."""

import time
from collections.abc import Callable
from pathlib import Path

TIMEOUT_S = 600
"""After which a test fails that waits for anything: no limit that a slow machine could come near."""


def wait_until(holds: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    """Ask again and again, every millisecond."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def lives(pid: int) -> bool:
    """Whether a process has not ended; one that has and that nobody waited for is no more."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False
