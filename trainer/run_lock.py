"""A directory in; held by this process alone, out: two runs in one would clear away each other's checkpoints."""

import contextlib
import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK_FILE = "lock"
WAIT_S = 120.0
"""How long a run that ended may keep its directory: a file server learns of a machine's death only after a while."""
_PAUSE_S = 0.2
_HELD = (errno.EACCES, errno.EAGAIN)


class LockedError(ValueError):
    """Another process is at work in the directory, or it cannot be written; the message says which."""


@contextmanager
def locked(
    directory: Path, say: Callable[[str], None], wait_s: float = WAIT_S, setting: str = "run_dir"
) -> Iterator[None]:
    """Hold `directory/lock`. The operating system lets go of it however the process ends.

    Args:
        directory: exists.
        say: takes a line for the user, where it is waited for, or where the file system knows no locks.
        wait_s: seconds.
        setting: what the user named the directory by.

    Raises:
        LockedError: another process holds it all that time, or the file cannot be made.
    """
    while True:
        with _opened(directory, setting) as file:
            _take(file, directory, say, wait_s, setting)
            if _is_in_place(file, directory):
                _sign(file)
                yield
                return


def take_away(directory: Path) -> None:
    """Remove the lock file while it is held: who waits for it makes a new one."""
    (directory / LOCK_FILE).unlink(missing_ok=True)


def _opened(directory: Path, setting: str) -> IO[str]:
    try:
        return (directory / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise LockedError(
            f"{setting}: got {directory}, which cannot be written ({error.strerror}); make room, or give another one"
        ) from error


def _take(file: IO[str], directory: Path, say: Callable[[str], None], wait_s: float, setting: str) -> None:
    end, told = time.monotonic() + wait_s, False
    while not (held := _try(file, say)) and time.monotonic() < end:
        if not told:
            say(f"{directory} is held by {_holder(file)}; waiting up to {wait_s:.0f} s for it to end")
        told = True
        time.sleep(_PAUSE_S)
    if not held:
        raise LockedError(
            f"{setting}: got {directory}, where {_holder(file)} is at work; wait for it, or give another {setting}"
        )


def _is_in_place(file: IO[str], directory: Path) -> bool:
    """Whether the file is the directory's still: whoever held it may have taken it away."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), (directory / LOCK_FILE).stat())
    except FileNotFoundError:
        return False


def _try(file: IO[str], say: Callable[[str], None]) -> bool:
    """Whether nobody else holds the file now."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        say(f"{file.name} cannot be locked ({error.strerror}): see to it yourself that nobody else uses its directory")
    return True


def _sign(file: IO[str]) -> None:
    with contextlib.suppress(OSError):  # a full disk is told of where something is needed in the file
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "another process"
