"""File names, offsets and sizes in, bytes out: where the members of a shard are read from, and the local directory."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Unreachable(OSError):  # noqa: N818
    """A store that does not answer, however often it is asked: no fault of the sample that was wanted."""


class Storage(Protocol):
    """A flat folder of files that are read in ranges; one that keeps no copies inherits the rest.

    Implementations survive a fork.
    """

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Bytes of a file from `offset` on; fewer than `size` where the file ends, none beyond its end.

        Raises:
            Unreachable: the store does not answer, or lets nobody read.
            OSError: there is no such file, or it may not be read.
        """

    def forget(self, name: str, offset: int, size: int) -> bool:
        """Drop a copy of these bytes that turned out to be damaged; False where none is kept."""
        return False

    def fetch(self, name: str, spans: Sequence[tuple[int, int]]) -> None:
        """Get ranges (offset, size) that will be read soon in one request, where they can be kept till then.

        Raises:
            Unreachable, OSError: as `read`.
        """
        return


class RemoteStorage(Storage, Protocol):
    """A store elsewhere, from which small files are copied whole."""

    def read_whole(self, name: str) -> bytes:
        """All of a small file.

        Raises:
            Unreachable, OSError: as `read`.
        """


class LocalFiles(Storage):
    """The files of a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str, offset: int, size: int) -> bytes:
        """As `Storage.read`; no more memory is taken than the file has bytes."""
        descriptor = os.open(self._root / plain_name(name), os.O_RDONLY)
        try:
            wanted = min(size, max(0, os.fstat(descriptor).st_size - offset))
            return _read_all(descriptor, offset, wanted)
        finally:
            os.close(descriptor)


def plain_name(name: str) -> str:
    """The name of a file, refused where it could lead out of its folder.

    Raises:
        FileNotFoundError: a path, or `..`.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise FileNotFoundError(f"{name!r}: expected the plain name of a file")
    return name


def _read_all(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    if len(data) == size:
        return data
    parts, got = [data], len(data)
    while got < size and (part := os.pread(descriptor, size - got, offset + got)):
        parts.append(part)
        got += len(part)
    return b"".join(parts)
