"""References and predictions of other driving benchmarks in, exact match or choice accuracy by type and hop out.

NuScenes-QA (Qian et al. 2024) counts an answer that equals the reference, by type of question and number of hops;
NuPlanQA asks multiple choice in nine subtasks. Both take the same rows, and DriveLM's test form too.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trainer.evaluate.baselines import offered_options
from trainer.evaluate.intervals import (
    LEVEL,
    Columns,
    Floats,
    Resampling,
    SceneSums,
    comparison,
    draw_scenes,
    score_intervals,
    sum_by_scene,
)
from trainer.evaluate.submission import (
    Problem,
    ReferenceQuestion,
    SubmissionError,
    answers_by_id,
    count_problems,
    reference_questions,
)

BENCHMARKS = ("exact-match", "multiple-choice")

_LETTER = re.compile(r"[(\[]?([A-Za-z])(?:[.):\]].*)?", re.DOTALL)
_PREAMBLE = re.compile(r"^(?:the\s+)?(?:correct\s+)?(?:answer|option)(?:\s+is)?\s*:?\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class BenchmarkQuestion(ReferenceQuestion):
    """A question of another benchmark: `kind` is its type or subtask.

    Attributes:
        hop: number of hops as text, "" where it has none.
        options: letter to text of a multiple choice; empty for other questions.
    """

    hop: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Answers of one file to all questions: whether each is right, and right to the letter."""

    questions: tuple[BenchmarkQuestion, ...]
    answers: tuple[str, ...]
    right: tuple[bool, ...]
    verbatim: tuple[bool, ...]
    failures: tuple[Problem, ...]


def benchmark_questions(content: Any) -> list[BenchmarkQuestion]:
    """Questions of a reference file.

    Args:
        content: rows `[{id, question, answer, type, hop, scene, options}]`, of which id, question and answer must be
            there; NuScenes-QA's `{questions: [{sample_token, question, answer, template_type, num_hop}]}`, whose ids
            are `<sample_token>_<place among the questions of that sample>`; or DriveLM's test form. `scene` is what
            intervals are drawn by; without it every sample or question stands for itself.

    Raises:
        SubmissionError: none of these forms.
    """
    rows = content.get("questions") if isinstance(content, Mapping) else content
    if isinstance(rows, list):
        number: Counter[str] = Counter()
        questions = [_question(row, place, number) for place, row in enumerate(rows)]
        twice = [name for name, count in Counter(q.id for q in questions).items() if count > 1]
        if twice:
            raise SubmissionError(f"references: got {len(twice)} ids twice, such as {twice[0]!r}, expected each once")
        return questions
    return [
        BenchmarkQuestion(**{**asdict(q), "tags": q.tags}, options=offered_options(q.question))
        for q in reference_questions(content)
    ]


def match_answers(
    benchmark: str, content: Any, predictions: Sequence[Any], problems: Sequence[Problem] = ()
) -> Matched:
    """Compare answers with references: by text, or by the letter chosen (only questions that offer options count).

    Args:
        benchmark: of `BENCHMARKS`.
        content: of the reference file.
        predictions: rows {id, question, answer}.
        problems: of reading them.

    Raises:
        SubmissionError: see `benchmark_questions`; no question to score.
    """
    questions = benchmark_questions(content)
    if benchmark == "multiple-choice":
        questions = [q for q in questions if q.options]
    if not questions:
        raise SubmissionError(f"references: got no question for --benchmark {benchmark}, expected at least one")
    answers, failures = answers_by_id(predictions, questions)
    failures = [*problems, *failures]
    if benchmark == "multiple-choice":
        right = [_choice(answers[q.id], q) == _choice(q.answer, q) != "" for q in questions]
        failures += [
            Problem(
                kind="no_letter", id=q.id, detail=f"got {answers[q.id][:60]!r}, expected one of {', '.join(q.options)}"
            )
            for q in questions
            if not _choice(answers[q.id], q)
        ]
        failures += [
            Problem(
                kind="no_right_option", id=q.id, detail=f"reference answer {q.answer[:60]!r}: every answer is wrong"
            )
            for q in questions
            if not _choice(q.answer, q)
        ]
    else:
        right = [same_answer(answers[q.id], q.answer) for q in questions]
    return Matched(
        questions=tuple(questions),
        answers=tuple(answers[q.id] for q in questions),
        right=tuple(right),
        verbatim=tuple(answers[q.id] == q.answer for q in questions),
        failures=tuple(failures),
    )


def match_scores(benchmark: str, matched: Matched, resampling: Resampling) -> dict[str, Any]:
    """Accuracy overall, by type, hop and both, in the keys of DriveLM's scores where they mean something here."""
    sums = _sums(matched)
    counts = draw_scenes(len(sums.values), resamples=resampling.resamples, seed=resampling.seed)
    values = _accuracies(sums.total())
    official = {"accuracy": float(values["accuracy"]), "chatgpt": None, "language": None, "match": None, "final": None}
    result: dict[str, Any] = {
        "benchmark": benchmark,
        "official": official,
        "counts": {"questions": len(matched.questions), "failures": count_problems(matched.failures)},
        "ungated": {"accuracy": official["accuracy"]},
        "strict": {"accuracy": sum(matched.verbatim) / len(matched.verbatim)},
        "by_type": _rows(matched, lambda q: {"type": q.kind}),
        "by_hop": _rows(matched, lambda q: {"hop": q.hop}),
        "by_type_and_hop": _rows(matched, lambda q: {"type": q.kind, "hop": q.hop}),
        "intervals": {
            "level": LEVEL,
            "resamples": resampling.resamples,
            "seed": resampling.seed,
            "scenes": len(sums.values),
            "official": score_intervals(sums, _accuracies, counts),
        },
        "failures": [asdict(failure) for failure in matched.failures],
    }
    if benchmark == "multiple-choice":
        result["letters"] = {
            "chosen": dict(sorted(Counter(map(_choice, matched.answers, matched.questions)).items())),
            "right": dict(sorted(Counter(_choice(q.answer, q) for q in matched.questions).items())),
            "chance": sum(1 / len(q.options) for q in matched.questions) / len(matched.questions),
        }
    return result


def compare_matches(before: Matched, after: Matched, resampling: Resampling) -> dict[str, Any]:
    """Accuracy, its mean over types and that of each type of two predictions, see `intervals.comparison`.

    `failures` counts those of `before` and `after`.
    """
    failures = {"before": count_problems(before.failures), "after": count_problems(after.failures)}
    return {**comparison(_sums(before), _sums(after), _accuracies, resampling), "failures": failures}


def same_answer(answer: str, reference: str) -> bool:
    """Whether two texts are equal but for case, spaces and a full stop at the end."""
    return _plain(answer) == _plain(reference)


def _sums(matched: Matched) -> SceneSums:
    columns: dict[str, Floats] = {}
    right = np.array(matched.right, float)
    for kind in sorted({q.kind for q in matched.questions}):
        is_kind = np.array([q.kind == kind for q in matched.questions], float)
        columns[f"n {kind}"], columns[f"right {kind}"] = is_kind, is_kind * right
    return sum_by_scene([q.scene for q in matched.questions], columns)


def _accuracies(sums: Columns) -> dict[str, Floats]:
    """`accuracy`, its mean over types, and that of each type; NaN where a resample has no question of it."""
    kinds = [name.removeprefix("n ") for name in sums if name.startswith("n ")]
    with np.errstate(invalid="ignore", divide="ignore"):
        each = {kind: np.asarray(sums[f"right {kind}"]) / np.asarray(sums[f"n {kind}"]) for kind in kinds}
        total = sum(np.asarray(sums[f"right {kind}"]) for kind in kinds) / sum(
            np.asarray(sums[f"n {kind}"]) for kind in kinds
        )
    mean = np.mean(list(each.values()), axis=0)
    return {"accuracy": total, "mean over types": mean, **{f"type {kind}": value for kind, value in each.items()}}


def _rows(matched: Matched, key: Callable[[BenchmarkQuestion], dict[str, str]]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, ...], list[bool]] = {}
    names: tuple[str, ...] = ()
    for question, right in zip(matched.questions, matched.right, strict=True):
        named = key(question)
        names = tuple(named)
        groups.setdefault(tuple(named.values()), []).append(right)
    return [
        {**dict(zip(names, group, strict=True)), "questions": len(rights), "accuracy": sum(rights) / len(rights)}
        for group, rights in sorted(groups.items())
    ]


def _plain(text: str) -> str:
    """Case, spaces and a full stop at the end aside."""
    return " ".join(text.split()).rstrip(".").casefold()


def _choice(answer: str, question: BenchmarkQuestion) -> str:
    """The letter an answer chooses, by itself or by its option's text; "" for none."""
    whole = answer.strip()[:2000]
    text = _PREAMBLE.sub("", whole)
    found = _LETTER.fullmatch(text)
    if found and found[1].upper() in question.options:
        return found[1].upper()
    said = {_plain(whole), _plain(text)}
    return next((letter for letter, option in question.options.items() if _plain(option) in said), "")


def _question(row: Any, place: int, number: Counter[str]) -> BenchmarkQuestion:
    if not isinstance(row, Mapping):
        raise SubmissionError(f"references: row {place}: got {type(row).__name__}, expected an object")
    sample = str(row.get("sample_token", ""))
    name = row.get("id", f"{sample}_{number[sample]}" if sample else None)
    number[sample] += 1
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(name, str) or not isinstance(question, str) or not isinstance(answer, str):
        raise SubmissionError(
            f"references: row {place}: got id {name!r:.40}, question {type(question).__name__} and answer "
            f"{type(answer).__name__}, expected strings"
        )
    hop, scene = row.get("hop", row.get("num_hop", "")), row.get("scene")
    return BenchmarkQuestion(
        id=name,
        scene=(sample or name) if scene is None else str(scene),
        frame=sample or name,
        index=0,
        kind=str(row.get("type") or row.get("template_type") or "all"),
        question=question,
        answer=answer,
        tags=(),
        hop="" if hop is None else str(hop),
        options=_options(row.get("options"), question, place),
    )


def _options(options: Any, question: str, place: int) -> dict[str, str]:
    """By letter; a list counts from A."""
    if options is None:
        return offered_options(question)
    listed = {chr(ord("A") + i): text for i, text in enumerate(options)} if isinstance(options, list) else options
    if (
        not isinstance(listed, Mapping)
        or not 2 <= len(listed) <= 26
        or not all(isinstance(t, str) for t in listed.values())
    ):
        raise SubmissionError(f"references: row {place}: options: got {options!r:.60}, expected 2 to 26 texts")
    return {str(letter).upper(): text for letter, text in listed.items()}
