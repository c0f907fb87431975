"""DriveLM's files: references in the test form and submissions, read and written."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_shards.atomic import write_atomically

KINDS = ("perception", "prediction", "planning", "behavior")
"""DriveLM's order of questions; the number in an id counts through them."""

HEADER_FIELDS = ("method", "team", "authors", "email", "institution", "country")
"""What the evaluation server asks for beside the results; texts but for the list of authors."""


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


def reference_questions(references: Mapping[str, Any], *, answered: bool = True) -> Iterator[ReferenceQuestion]:
    """Every question of the test form in the order of the file.

    Args:
        references: the file's content.
        answered: False takes a file of questions alone, such as the published validation questions: a missing answer
            is then "" and missing tags are none.

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
                blank = {} if answered else {"A": "", "tag": []}
                entry = {**blank, **entry} if isinstance(entry, Mapping) else entry
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


def object_infos(references: Mapping[str, Any], question: ReferenceQuestion) -> dict[str, Mapping[str, Any]]:
    """Attributes by tag of the objects of a question's frame (`key_object_infos`); none where the file has none."""
    infos = references[question.scene]["key_frames"][question.frame].get("key_object_infos")
    return {tag: info for tag, info in infos.items() if isinstance(info, Mapping)} if isinstance(infos, Mapping) else {}


def read_references(path: Path, *, answered: bool = True) -> dict[str, Any]:
    """Read a reference file and check its form; `answered` as for `reference_questions`.

    Raises:
        SubmissionError: not JSON, or not DriveLM's test form.
    """
    references = read_json(path)
    try:
        for _ in reference_questions(references, answered=answered):
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
    return submission_rows(read_json(path), path)


def submission_rows(content: Any, path: Path) -> list[Any]:
    """The rows in a submission's content; `path` is for the message.

    Raises:
        SubmissionError: neither a list nor an object with a list `results`.
    """
    rows = content.get("results") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise SubmissionError(f"{path}: got no list of rows, expected [{{id, question, answer}}] or {{results: [...]}}")
    return rows


def read_header(path: Path) -> SubmissionHeader:
    """The header `{method, team, authors, email, institution, country}` of a JSON file.

    Raises:
        SubmissionError: not such an object; the message names every field that is wrong.
    """
    content = read_json(path)
    problems = header_problems(content)
    unknown = sorted(set(content) - set(HEADER_FIELDS)) if isinstance(content, dict) else []
    problems += [f"field {name!r}: not known, expected {', '.join(HEADER_FIELDS)}" for name in unknown]
    if problems:
        raise SubmissionError(f"{path}: " + "; ".join(problems))
    return SubmissionHeader(**{**content, "authors": tuple(content["authors"])})


def header_problems(content: Any) -> list[str]:
    """What the evaluation server would miss in a submission's fields beside its results."""
    if not isinstance(content, Mapping):
        return [f"got {type(content).__name__}, expected an object with the fields {', '.join(HEADER_FIELDS)}"]
    problems = []
    for name in HEADER_FIELDS:
        value = content.get(name)
        texts = value if name == "authors" and isinstance(value, list) else [value]
        if (name == "authors") != isinstance(value, list) or not texts or not all(map(_is_text, texts)):
            expected = "a list of names" if name == "authors" else "text"
            problems.append(f"field {name!r}: got {value!r:.60}, expected {expected}, not empty")
    return problems


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def write_submission(rows: Sequence[Mapping[str, Any]], path: Path, header: SubmissionHeader | None = None) -> None:
    """Write rows `{id, question, answer}`, wrapped for the evaluation server where a header is given."""
    content: Any = list(map(dict, rows))
    if header:
        content = {**asdict(header), "results": content}
    path.parent.mkdir(parents=True, exist_ok=True)
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


def count_problems(problems: Sequence[Problem]) -> dict[str, int]:
    """How many problems there are of each kind."""
    return dict(sorted(Counter(problem.kind for problem in problems).items()))


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        SubmissionError: it cannot be read, or is not JSON.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SubmissionError(f"{path}: cannot be read ({error.strerror}), expected a JSON file") from error
    encoding = json.detect_encoding(data)
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
