"""Files that `score` is given in, their content and everything odd about the files themselves out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.evaluate.submission import Problem, SubmissionError, read_json, reference_questions, submission_rows


def read_predictions(path: Path) -> tuple[list[Any], list[Problem]]:
    """Rows of a submission, and what the original's reader would stumble over in the file's encoding.

    Raises:
        SubmissionError: no JSON, or no rows.
    """
    content, problems = read_encoded(path)
    return submission_rows(content, path), problems


def read_encoded(path: Path) -> tuple[Any, list[Problem]]:
    """Content of a JSON file, and a problem where it is not plain UTF-8.

    UTF-16, UTF-32 and byte order marks are read as what they are; bytes that are not UTF-8 as Latin-1, in which every
    byte is a character.

    Raises:
        SubmissionError: no JSON.
    """
    try:
        content = read_json(path)
    except SubmissionError as error:
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise
        return _latin(path, error), [_encoding("is not UTF-8 and was read as Latin-1")]
    with path.open("rb") as file:
        encoding = json.detect_encoding(file.read(4))
    if encoding == "utf-8":
        return content, []
    named = "begins with a byte order mark" if encoding == "utf-8-sig" else f"is {encoding.upper()}"
    return content, [_encoding(f"{named}, which the original's JSON reader refuses")]


def _encoding(detail: str) -> Problem:
    return Problem(kind="encoding", id="file", detail=f"{detail}; write plain UTF-8")


def _latin(path: Path, error: SubmissionError) -> Any:
    try:
        return json.loads(path.read_bytes().decode("latin-1"))
    except (ValueError, RecursionError):
        raise error from None


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
            raise SubmissionError(
                f"{option}: got the name {name!r} twice or empty, expected different ones; write NAME=FILE"
            )
        named[name] = Path(path)
    return named
