"""The path of a directory that is to be made in; what speaks against it, and the directory, whole or not there, out."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def to_be_made(path: Path, error: type[ValueError]) -> Path:
    """Where a directory is to be written under a temporary name and then renamed.

    Args:
        path: must not exist, or be an empty directory; a link stays, and what it points to is made.
        error: what is raised.

    Raises:
        error: something is there, or it is the working directory, which cannot be replaced under who works in it.
    """
    real = path.resolve()
    if real == Path.cwd():
        raise error(f"{path}: got the working directory, expected a new one; name a directory in it or beside it")
    if real.exists() and not (real.is_dir() and not any(real.iterdir())):
        raise error(f"{path}: got a path in use, expected none or an empty directory; name another or remove it")
    return real


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """The path of a directory to make and fill; on leaving it is renamed to `path`, on an exception removed.

    Args:
        path: as `to_be_made` returns it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # under its name after an exception alone
