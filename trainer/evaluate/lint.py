"""A submission and its references in, everything that would cost points or break the evaluation server's run out."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_shards.schema import VIEW_SIZE
from trainer.evaluate.baselines import offered_options
from trainer.evaluate.ptb_tokenizer import LINE_BREAK
from trainer.evaluate.score_inputs import read_encoded
from trainer.evaluate.submission import (
    Problem,
    ReferenceQuestion,
    answers_by_id,
    header_problems,
    reference_questions,
    submission_rows,
)
from trainer.evaluate.tags import BARE_TAG, EXACT_TAG

MAX_ANSWER = 4000
"""Characters; DriveLM's longest reference answer has fewer than 2,000."""

_TAG_LIKE = re.compile(rf"<[^<>\n]{{0,80}}>|[<(\[]\s*c\s*\d+\s*,[^<>()\[\]\n]{{0,80}}[>)\]]?|{BARE_TAG}", re.IGNORECASE)
_DECIMAL = re.compile(r"(?<!\d)\d+\.\d+")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_YES_NO = {"yes": "Yes.", "no": "No."}


def lint_file(path: Path, references: Mapping[str, Any], *, upload: bool = False) -> list[Problem]:
    """All problems of a submission's file: encoding, fields, rows.

    Args:
        path: of the submission.
        references: DriveLM's test form, with or without answers.
        upload: plain rows are a problem too: the server wants them wrapped.

    Raises:
        SubmissionError: no JSON, or no rows.
    """
    content, problems = read_encoded(path)
    rows = submission_rows(content, path)
    if isinstance(content, dict):
        problems += [Problem(kind="header", id="file", detail=detail) for detail in header_problems(content)]
    elif upload:
        detail = "plain rows, expected {method, team, authors, email, institution, country, results}; see --header"
        problems.append(Problem(kind="header", id="file", detail=detail))
    return problems + lint(rows, references)


def lint(rows: Sequence[Any], references: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with rows: malformed ones, ids, other questions' texts, answers that cannot be scored as meant."""
    questions = list(reference_questions(references, answered=False))
    answers, problems = answers_by_id(rows, questions)
    problems += _other_questions(rows, questions)
    answered = {row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}
    for question in questions:
        if question.id in answered:
            problems += [
                Problem(kind=kind, id=question.id, detail=detail)
                for kind, detail in _answer_problems(question, answers[question.id])
            ]
    return problems


def _other_questions(rows: Sequence[Any], questions: Sequence[ReferenceQuestion]) -> list[Problem]:
    """Rows whose text is not that of the question with their id: the ids count in another order."""
    texts = {question.id: question.question for question in questions}
    problems = []
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("id"), str) and row["id"] in texts:
            got, expected = row.get("question"), texts[row["id"]]
            if not isinstance(got, str):
                detail = f"field 'question': got {type(got).__name__}, expected the question's text"
                problems.append(Problem(kind="malformed_row", id=row["id"], detail=detail))
            elif got.split() != expected.split():
                detail = f"got {got[:60]!r}, expected {expected[:60]!r}; do the ids count in DriveLM's order?"
                problems.append(Problem(kind="other_question", id=row["id"], detail=detail))
    return problems


def _answer_problems(question: ReferenceQuestion, answer: str) -> Iterator[tuple[str, str]]:
    """(kind, detail) of one answer."""
    if not answer.strip():
        yield "empty_answer", "counts as wrong"
    if len(answer) > MAX_ANSWER:
        yield "long_answer", f"{len(answer)} characters, expected at most {MAX_ANSWER}"
        answer = answer[:MAX_ANSWER]
    yield from _character_problems(answer)
    yield from _tag_problems(answer)
    counts = len(_DECIMAL.findall(answer))
    if counts % 2 and (question.index == 0 or 3 in question.tags):
        yield "odd_decimals", f"{counts} decimals, which are read in pairs; the last one is dropped"
    options = offered_options(question.question)
    if options and answer not in options:
        yield "no_letter", f"got {answer[:40]!r}, expected one of {', '.join(options)} and nothing else"
    meant = _YES_NO.get(answer.strip().rstrip(".!").lower())
    if meant and answer != meant:
        yield "yes_no", f"got {answer!r}, expected {meant!r} to the letter"


def _character_problems(answer: str) -> Iterator[tuple[str, str]]:
    if found := LINE_BREAK.search(answer.replace("\n", " ")):
        yield "line_break", f"{found[0]!r} shifts every later answer by a line"
    if found := _CONTROL.search(answer):
        yield "control_character", f"{found[0]!r}"
    if "\ufffd" in answer:
        yield "replacement_character", "U+FFFD: bytes were lost where this text was decoded"
    if not answer.isascii() and any("\ud800" <= character <= "\udfff" for character in answer):
        yield "lone_surrogate", "cannot be written as UTF-8"


def _tag_problems(answer: str) -> Iterator[tuple[str, str]]:
    for match in _TAG_LIKE.finditer(answer):
        tag = EXACT_TAG.fullmatch(match[0])
        if tag is None:
            yield "tag_form", f"got {match[0]!r}, expected <c1,CAM_FRONT,800.0,450.0> with one decimal each"
        elif float(tag[1]) > VIEW_SIZE[0] or float(tag[2]) > VIEW_SIZE[1]:
            yield "point_outside", f"{match[0]} is outside of {VIEW_SIZE[0]}x{VIEW_SIZE[1]}"
    tags = [match[0] for match in EXACT_TAG.finditer(answer)]
    repeated = [name for name, count in Counter(tag.split(",", 1)[0] for tag in set(tags)).items() if count > 1]
    if repeated:
        yield "duplicate_tag", f"{', '.join(sorted(repeated))} stands for several objects of one answer"
