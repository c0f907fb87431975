"""Rows answered so far, kept beside the output, so that a killed prediction goes on where it was.

`OUT.partial/` holds `settings.json` and a `rank-NNN.jsonl` for each rank; one line is one submission row.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from data_shards.atomic import write_json

Row = dict[str, Any]

_SETTINGS = "settings.json"


class PartialError(ValueError):
    """Kept answers that were given under other settings; the message names what differs and the fix."""


class PartialAnswers:
    """The answers kept for one output file."""

    def __init__(self, out: Path) -> None:
        self.directory = out.with_name(out.name + ".partial")

    def prepare(self, settings: Mapping[str, Any], *, restart: bool) -> None:
        """Take the directory, which exists; or check that its answers were given under the same settings; on one rank
        only.

        Args:
            settings: whatever decides the answers, ready for JSON.
            restart: drop what is kept.

        Raises:
            PartialError: it holds answers given under other settings.
        """
        file = self.directory / _SETTINGS
        if restart:
            self.drop()
        if not file.is_file():
            write_json(file, settings)
            return
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PartialError(f"{file}: got text that is not JSON ({error}); start anew with --restart") from error
        names = sorted(settings.keys() | kept.keys()) if isinstance(kept, dict) else []
        different = [name for name in names if kept.get(name) != settings.get(name)]
        if different or not names:
            changes = "; ".join(f"{name}: kept {kept.get(name)!r}, now {settings.get(name)!r}" for name in different)
            raise PartialError(
                f"{file}: got answers of other settings ({changes or 'malformed'}), expected the same ones to go on "
                "with; name another --out, or drop the kept answers with --restart"
            )

    def read(self) -> dict[str, Row]:
        """Row by id; a line that was cut off, or spoilt by a crash of the machine, is left out."""
        rows: dict[str, Row] = {}
        for file in sorted(self.directory.glob("rank-*.jsonl")):
            for line in file.read_bytes().split(b"\n")[:-1]:
                row = _whole_row(line)
                if row is not None:
                    rows.setdefault(row["id"], row)
        return rows

    def remove(self) -> None:
        """Take the directory away, unless another command is at work in it again."""
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def drop(self) -> None:
        """Take away everything kept, the settings last: no answers are left without them. The directory stays."""
        for kept in (*self.directory.glob("rank-*.jsonl"), self.directory / _SETTINGS):
            kept.unlink(missing_ok=True)


class AnswerLog:
    """Appends rows to the file of one rank; a context manager."""

    def __init__(self, partial: PartialAnswers, rank: int) -> None:
        path = partial.directory / f"rank-{rank:03d}.jsonl"
        _drop_cut_line(path)
        self._file: IO[bytes] = path.open("ab")

    def __enter__(self) -> "AnswerLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows; they last through the end of the process, however it ends."""
        self._file.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        self._file.flush()


def _whole_row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    is_row = isinstance(row, dict) and isinstance(row.get("id"), str) and isinstance(row.get("answer"), str)
    return row if is_row else None


def _drop_cut_line(path: Path) -> None:
    if not path.is_file():
        return
    whole = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, whole)
