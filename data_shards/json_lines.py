"""A file of JSON lines that only grows in; its records out, once lines that are cut off or not wanted are gone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_shards.atomic import write_atomically


def keep_lines(path: Path, wanted: Callable[[Any], bool]) -> list[Any]:
    """Remove the lines that are no JSON, such as a last one that was cut off, and those that are not wanted.

    The file is whole at any moment, and is left alone where nothing is to be removed.

    Returns:
        The records of the other lines, in order; none where there is no file.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    records, kept = [], []
    for line in content.split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if wanted(record):
            records.append(record)
            kept.append(line + b"\n")
    whole = b"".join(kept)
    if whole != content:
        write_atomically(path, whole)
    return records
