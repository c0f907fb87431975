"""DriveLM's files: references in the test form and submissions, read, written and checked before an upload."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_shards.atomic import write_atomically
from trainer.evaluate.ptb_tokenizer import LINE_BREAK

KINDS = ("perception", "prediction", "planning", "behavior")
"""DriveLM's order of questions; the number in an id counts through them."""

_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class SubmissionError(ValueError):
    """A file that is no submission or no reference at all; the message names the file, the place, got and expected."""


@dataclass(frozen=True, kw_only=True)
class ReferenceQuestion:
    """One question of the test form: its id `<scene>_<frame>_<index>`, reference answer and tags (0 to 3)."""

    id: str
    scene: str
    frame: str
    index: int
    kind: str
    question: str
    answer: str
    tags: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SubmissionHeader:
    """What the evaluation server asks for beside the results."""

    method: str
    team: str
    authors: tuple[str, ...]
    email: str
    institution: str
    country: str


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong with one row or the whole file; `id` is the question's, or "row N" where it has none."""

    kind: str
    id: str
    detail: str


def reference_questions(references: Mapping[str, Any]) -> Iterator[ReferenceQuestion]:
    """Every question of the test form in the order of the file.

    Raises:
        SubmissionError: a scene, frame or question that is not of the form.
    """
    for scene, scene_data in _items(references, "references"):
        for frame, frame_data in _items(_field(scene_data, "key_frames", scene), f"{scene}: key_frames"):
            by_kind = _field(frame_data, "QA", f"{scene}: {frame}")
            listed = [
                (kind, entry) for kind in KINDS for entry in _kind_entries(by_kind, kind, f"{scene}: {frame}: QA")
            ]
            for index, (kind, entry) in enumerate(listed):
                yield _reference_question(entry, scene=scene, frame=frame, index=index, kind=kind)


def _reference_question(entry: Any, *, scene: str, frame: str, index: int, kind: str) -> ReferenceQuestion:
    where = f"{scene}: {frame}: question {index}"
    text, answer, tags = (_field(entry, name, where) for name in ("Q", "A", "tag"))
    if not isinstance(text, str) or not isinstance(answer, str):
        raise SubmissionError(f"{where}: got Q {type(text).__name__} and A {type(answer).__name__}, expected strings")
    if not isinstance(tags, list) or any(type(tag) is not int for tag in tags):
        raise SubmissionError(f"{where}: tag: got {tags!r}, expected a list of 0 to 3")
    return ReferenceQuestion(
        id=f"{scene}_{frame}_{index}",
        scene=scene,
        frame=frame,
        index=index,
        kind=kind,
        question=text,
        answer=answer,
        tags=tuple(tags),
    )


def read_references(path: Path) -> dict[str, Any]:
    """Read a reference file and check its form.

    Raises:
        SubmissionError: not JSON, or not DriveLM's test form.
    """
    references = _read_json(path)
    try:
        for _ in reference_questions(references):
            pass
    except SubmissionError as error:
        raise SubmissionError(
            f"{path}: {error}; the test form is {{scene: {{key_frames: {{frame: {{QA}}}}}}}}"
        ) from error
    return dict(references)


def read_submission(path: Path) -> list[Any]:
    """The rows of a submission, plain or wrapped; rows themselves are not checked.

    Raises:
        SubmissionError: not JSON, or neither a list nor an object with a list `results`.
    """
    content = _read_json(path)
    rows = content.get("results") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise SubmissionError(f"{path}: got no list of rows, expected [{{id, question, answer}}] or {{results: [...]}}")
    return rows


def write_submission(rows: Sequence[Mapping[str, str]], path: Path, header: SubmissionHeader | None = None) -> None:
    """Write rows `{id, question, answer}`, wrapped for the evaluation server where a header is given."""
    content: Any = list(map(dict, rows))
    if header:
        content = {**asdict(header), "results": content}
    write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1).encode())


def answers_by_id(rows: Sequence[Any], questions: Sequence[ReferenceQuestion]) -> tuple[dict[str, str], list[Problem]]:
    """The answer of every question ("" where missing; of duplicates the last), and what is wrong with the rows."""
    answers = {question.id: "" for question in questions}
    seen: Counter[str] = Counter()
    problems = []
    for number, row in enumerate(rows):
        name, answer = (row.get("id"), row.get("answer")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(answer, str):
            detail = "expected an object with the strings id and answer"
            problems.append(
                Problem(kind="malformed_row", id=name if isinstance(name, str) else f"row {number}", detail=detail)
            )
            continue
        seen[name] += 1
        if name in answers:
            answers[name] = answer
    problems += [
        Problem(kind="duplicate_id", id=name, detail=f"{count} rows; the last one counts")
        for name, count in seen.items()
        if count > 1
    ]
    problems += [
        Problem(kind="extra_id", id=name, detail="no such question in the references")
        for name in seen
        if name not in answers
    ]
    problems += [
        Problem(kind="missing_id", id=name, detail="no answer; counted as an empty one")
        for name in answers
        if not seen[name]
    ]
    return answers, problems


def lint(rows: Sequence[Any], references: Mapping[str, Any]) -> list[Problem]:
    """What the evaluation server would stumble over: malformed rows, wrong ids, characters that break its lines."""
    questions = list(reference_questions(references))
    answers, problems = answers_by_id(rows, questions)
    for name, answer in answers.items():
        if found := LINE_BREAK.search(answer.replace("\n", " ")):
            problems.append(
                Problem(kind="line_break", id=name, detail=f"{found[0]!r} shifts every later answer by a line")
            )
        if not answer.isascii() and any("\ud800" <= character <= "\udfff" for character in answer):
            problems.append(Problem(kind="lone_surrogate", id=name, detail="cannot be written as UTF-8"))
    return problems


def count_problems(problems: Sequence[Problem]) -> dict[str, int]:
    """How many problems there are of each kind."""
    return dict(sorted(Counter(problem.kind for problem in problems).items()))


def _read_json(path: Path) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SubmissionError(f"{path}: cannot be read ({error.strerror}), expected a JSON file") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return json.loads(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise SubmissionError(
            f"{path}: got bytes that are not {encoding} at {error.start}, expected JSON in UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SubmissionError(f"{path}: got text that is not JSON ({error}), expected JSON in UTF-8") from error


def _items(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise SubmissionError(f"{where}: got {type(value).__name__}, expected an object")
    return iter(value.items())


def _kind_entries(by_kind: Any, kind: str, where: str) -> list[Any]:
    """The questions of one kind; none where a frame has no such kind."""
    if not isinstance(by_kind, Mapping) or not isinstance(by_kind.get(kind, []), list):
        raise SubmissionError(f"{where}: {kind}: got other types, expected QA an object of lists")
    return by_kind.get(kind, [])


def _field(value: Any, name: str, where: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise SubmissionError(f"{where}: got no field {name!r}")
    return value[name]
