"""Files that `score` is given in, their content and everything odd about the files themselves out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.evaluate.submission import Problem, SubmissionError, read_json, read_submission, reference_questions

_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def read_predictions(path: Path) -> tuple[list[Any], list[Problem]]:
    """Rows of a submission, and what the original's reader would stumble over in the file's encoding.

    UTF-16 and a byte order mark are read as what they are; bytes that are not UTF-8 as Latin-1, in which every byte is
    a character.

    Raises:
        SubmissionError: no JSON, or no rows.
    """
    try:
        rows = read_submission(path)
    except SubmissionError as error:
        if not isinstance(_root(error), UnicodeDecodeError):
            raise
        return _latin_rows(path, error)
    with path.open("rb") as file:
        is_marked = file.read(3).startswith(_MARKS)
    detail = "begins with a byte order mark, which the original's JSON reader refuses; write plain UTF-8"
    return rows, [Problem(kind="encoding", id="file", detail=detail)] if is_marked else []


def _root(error: BaseException) -> BaseException:
    return error.__cause__ or error


def _latin_rows(path: Path, error: SubmissionError) -> tuple[list[Any], list[Problem]]:
    try:
        content = json.loads(path.read_bytes().decode("latin-1"))
    except (ValueError, RecursionError):
        raise error from None
    rows = content.get("results") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise error
    return rows, [Problem(kind="encoding", id="file", detail="is not UTF-8 and was read as Latin-1; write plain UTF-8")]


def train_questions(path: Path) -> list[tuple[str, str]]:
    """(question, answer) pairs of a training file in DriveLM's form, with or without tags.

    Raises:
        SubmissionError: of another form, or no question with an answer in it.
    """
    content = read_json(path)
    try:
        pairs = [(q.question, q.answer) for q in reference_questions(content, answered=False) if q.answer]
    except SubmissionError as error:
        raise SubmissionError(f"{path}: {error}") from error
    if not pairs:
        raise SubmissionError(f"{path}: got no answered question, expected DriveLM's training questions")
    return pairs


def named_files(given: Sequence[str], option: str) -> dict[str, Path]:
    """`NAME=FILE` or `FILE`, whose name is then the file's.

    Raises:
        SubmissionError: a name twice, or an empty one.
    """
    named: dict[str, Path] = {}
    for entry in given:
        name, equals, path = entry.partition("=")
        if not equals or Path(entry).exists():
            name, path = Path(entry).stem, entry
        if not name or name in named:
            raise SubmissionError(f"{option}: got the name {name!r} twice or empty, expected different ones: NAME=FILE")
        named[name] = Path(path)
    return named
