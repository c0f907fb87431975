"""Bytes, a record or a writer in, a file out that is either whole or not there."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY_SUFFIX = ".partial"

_MAY_ONLY_READ = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def atomic_file(path: Path, *, synced: bool = True) -> Iterator[BinaryIO]:
    """A binary file to write; on leaving it is renamed to `path`, on an exception removed.

    Args:
        synced: bytes and name are on disk when this ends; where they are not, a power cut may leave the file cut short.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            if synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # under its name after an exception alone
    if synced:
        sync_directory(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, record: Any) -> None:
    """Write a record as indented JSON, whole or not at all; its directory is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())


def write_where_allowed(path: Path, data: bytes) -> None:
    """As `write_atomically`; nothing where this user may only read. For what can be made again each time."""
    try:
        write_atomically(path, data)
    except OSError as error:
        if error.errno not in _MAY_ONLY_READ:
            raise


def sync_directory(directory: Path) -> None:
    """Make the names in a directory last through a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
