"""A JSONL file or a JSON list in, where each row lies out, so that a process reads its own rows only."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_shards.sources.drivelm_annotations import SourceError

_SPACE = " \t\r\n"


class RowSpan(NamedTuple):
    """Bytes of a row in its file; `line` (from 1) is where it begins."""

    offset: int
    size: int
    line: int


def row_spans(annotations: Path) -> Iterator[tuple[RowSpan, bytes]]:
    """Every row with its bytes: the lines of a JSONL file that are not blank, or the items of a JSON list.

    Raises:
        SourceError: a file that does not open, is empty, or a list that is no JSON.
    """
    try:
        with annotations.open("rb") as file:
            start = file.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
            if not start:
                raise SourceError(f"{annotations}: got an empty file, expected JSON lines or a JSON list")
            file.seek(0)
            if start == b"[":
                yield from _items(annotations, file.read())
                return
            offset = 0
            for line, data in enumerate(file, start=1):
                if data.strip():
                    yield RowSpan(offset, len(data), line), data
                offset += len(data)
    except OSError as error:
        raise SourceError(
            f"{annotations}: field '--annotations': got a file that does not open ({error.strerror}), expected JSON "
            "lines or a JSON list; correct the path"
        ) from error


def _items(annotations: Path, data: bytes) -> Iterator[tuple[RowSpan, bytes]]:
    decoder = json.JSONDecoder()
    try:
        text = data.decode()
        place = _skip(text, text.index("[") + 1, "")
        offset, line, counted = 0, 1, 0
        while text[place : place + 1] != "]":
            _, end = decoder.raw_decode(text, place)
            offset += len(text[counted:place].encode())
            line += text.count("\n", counted, place)
            row = text[place:end].encode()
            yield RowSpan(offset, len(row), line), row
            offset, line, counted = offset + len(row), line + text.count("\n", place, end), end
            place = _skip(text, end, ",")
        if text[place + 1 :].strip():
            raise ValueError("text follows the list")
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{annotations}: got text that is no JSON list ({error}), expected JSON") from error


def _skip(text: str, place: int, separator: str) -> int:
    """The place of the next item or of `]`, behind the separator that has to be between two items."""
    while text[place : place + 1] in _SPACE and place < len(text):
        place += 1
    if separator and text[place : place + 1] == separator:
        return _skip(text, place + 1, "")
    if separator and text[place : place + 1] != "]":
        raise ValueError(f"character {place}: expected ',' or ']'")
    return place


def row_json(data: bytes) -> Any:
    """A row's JSON.

    Raises:
        ValueError: it does not parse.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
