"""A slow store and a directory in, the same store out with the ranges read last kept on disk, up to a size."""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_shards.atomic import atomic_file
from data_shards.storage import Storage, Unreachable, plain_name

_SWEEP_SHARE = 20
"""A process looks whether the directory is too large after writing this part of its limit."""

_ABANDONED_S = 3600
"""A file still unfinished after this time is one of a process that was killed."""


class CachedFiles(Storage):
    """Keeps each range that was read as a file of its own; the longest unused go first.

    Several processes may share a directory. What is kept is not trusted: the reader compares checksums, and calls
    `forget` where they differ.

    Attributes:
        max_bytes: limit of the directory.
    """

    def __init__(self, inner: Storage, directory: Path, max_bytes: int) -> None:
        """Keep at most about `max_bytes` under `directory`, together with others that use it with the same limit."""
        self._inner, self._directory, self.max_bytes = inner, directory, max_bytes
        self._unswept = max_bytes

    def read(self, name: str, offset: int, size: int) -> bytes:
        """As `Storage.read`; `Unreachable` as well where the directory cannot be used."""
        path = self._path(name, offset, size)
        with self._named_errors():
            data = _use(path)
        if data is None:
            data = self._inner.read(name, offset, size)
            with self._named_errors():
                self._keep(path, data)
        return data

    def forget(self, name: str, offset: int, size: int) -> bool:
        """Whether these bytes came from the directory."""
        try:
            self._path(name, offset, size).unlink()
        except FileNotFoundError:
            return False
        return True

    def fetch(self, name: str, spans: Sequence[tuple[int, int]]) -> None:
        """As `Storage.fetch`; ranges that are kept already are not asked for."""
        missing = [span for span in spans if not self._path(name, *span).is_file()]
        if not missing:
            return
        begin = min(offset for offset, _ in missing)
        data = self._inner.read(name, begin, max(offset + size for offset, size in missing) - begin)
        with self._named_errors():
            for offset, size in missing:
                self._keep(self._path(name, offset, size), data[offset - begin :][:size])

    def _path(self, name: str, offset: int, size: int) -> Path:
        return self._directory / plain_name(name) / f"{offset}-{size}"

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """A full disk is no fault of the sample that was wanted."""
        try:
            yield
        except OSError as error:
            raise Unreachable(
                f"{self._directory}: the cache cannot be used: {error}; free some space, name another directory, or do "
                "without it"
            ) from error

    def _keep(self, path: Path, data: bytes) -> None:
        if len(data) > self.max_bytes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, synced=False) as file:
            file.write(data)
        self._unswept += len(data)
        if self._unswept * _SWEEP_SHARE > self.max_bytes:
            self._sweep()
            self._unswept = 0

    def _sweep(self) -> None:
        """Remove the longest unused files until a tenth of the limit is free; one process at a time does it."""
        with (self._directory / ".sweep").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            files = sorted(_files(self._directory))
            total = sum(size for _, size, _ in files)
            if total <= self.max_bytes:
                return
            for _, size, path in files:
                if total <= 0.9 * self.max_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size


def _use(path: Path) -> bytes | None:
    """What is kept under a path, marked as used now; None where nothing is."""
    try:
        data = path.read_bytes()
        os.utime(path)
    except FileNotFoundError:
        return None
    return data


def _files(directory: Path) -> Iterator[tuple[int, int, Path]]:
    """Time of last use in ns, size and path of each range; one that another process removes meanwhile is skipped."""
    for folder in directory.iterdir():
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.name.startswith(".") and time.time() - status.st_mtime < _ABANDONED_S:
                continue  # being written
            yield status.st_mtime_ns, status.st_size, path
