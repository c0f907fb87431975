"""References and submission rows in, DriveLM's official scores out, and what they leave out or stumble over.

Follows the evaluation of OpenDriveLab/DriveLM at commit 1de72a7: graph gate, accuracy, judge, language, match, final.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainer.evaluate.judge import Judge, NoJudge, parse_reply
from trainer.evaluate.objects import is_object_question, object_f1
from trainer.evaluate.ptb_tokenizer import LINE_BREAK, tokenize_lines
from trainer.evaluate.submission import Problem, ReferenceQuestion, answers_by_id, reference_questions
from trainer.evaluate.text_metrics import LanguageScores, language_scores

BUCKETS = ("accuracy", "chatgpt", "language", "match")
"""What a question's tag says it is scored by: tag 0 accuracy, 1 chatgpt, 2 language, 3 match."""

MATCH_DISTANCE = 16.0
"""Pixels of the 1600x900 view; a point closer than this (L1) to a reference point is a match."""

FINAL_WEIGHTS = {"chatgpt": 0.4, "language": 0.2, "match": 0.2, "accuracy": 0.2}

_DECIMAL = re.compile(r"\d+\.\d+")
_EPSILON = 1e-8

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PointMatch:
    """Reference points that were found, in the order of the prediction, and the F1 (0..1) over points."""

    matched: tuple[Point, ...]
    f1: float


@dataclass(frozen=True, kw_only=True)
class GradedQuestion:
    """A question with the answer given; `eligible` is whether the graph gate lets it be scored."""

    question: ReferenceQuestion
    answer: str
    eligible: bool


def score(references: Mapping[str, Any], predictions: Sequence[Any], judge: Judge | NoJudge) -> dict[str, Any]:
    """Official scores and what belongs beside them, ready for JSON.

    Args:
        references: DriveLM's test form, see `submission.reference_questions`.
        predictions: rows {id, question, answer}; a missing one is an empty answer, of duplicates the last counts.
        judge: rates tags 1 and 3; with `NoJudge` chatgpt, match and final are None.

    Returns:
        `official` {accuracy, chatgpt, language {bleu_1..bleu_4, rouge_l, cider}, match, final}; `match_f1` (tag 3
        without the judge, 0..1); `counts`; `ungated` {accuracy, match_f1} of all questions; `object_f1` {micro, macro,
        frames}; `failures`, a row {kind, id, detail} for everything at which the original raises or changes its result.

    Raises:
        SubmissionError: the references are not of the test form.
    """
    questions = list(reference_questions(references))
    answers, failures = answers_by_id(predictions, questions)
    graded, gate_failures = apply_graph_gate(questions, answers)
    failures += gate_failures
    buckets = {name: [g for g in graded if g.eligible and tag in g.question.tags] for tag, name in enumerate(BUCKETS)}
    failures += [
        Problem(kind="empty_bucket", id=name, detail="no question to score, which counts as 0")
        for name, bucket in buckets.items()
        if not bucket
    ]
    ratings, judge_failures = _rate(buckets["chatgpt"] + buckets["match"], judge)
    language, line_failures = _language(buckets["language"])
    failures += judge_failures + line_failures
    accuracy, match_f1 = _accuracy(buckets["accuracy"]), _mean_match_f1(buckets["match"])
    chatgpt = _mean_rating(buckets["chatgpt"], ratings)
    match = _match(match_f1, _mean_rating(buckets["match"], ratings))
    described = ((g.answer, g.question.answer) for g in graded if is_object_question(g.question.question))
    return {
        "official": {
            "accuracy": accuracy,
            "chatgpt": chatgpt,
            "language": asdict(language),
            "match": match,
            "final": final_score(accuracy=accuracy, chatgpt=chatgpt, language=language, match=match),
        },
        "match_f1": match_f1,
        "counts": _counts(graded, failures),
        "ungated": {
            "accuracy": _accuracy([g for g in graded if 0 in g.question.tags]),
            "match_f1": _mean_match_f1([g for g in graded if 3 in g.question.tags]),
        },
        "object_f1": asdict(object_f1(described)),
        "failures": [asdict(failure) for failure in failures],
    }


def match_points(answer: str, reference: str) -> PointMatch:
    """Match the points of `decimal_pairs` greedily in the order of the answer, whatever their camera and id."""
    remaining, _ = decimal_pairs(reference)
    predicted, _ = decimal_pairs(answer)
    num_reference = len(remaining)
    matched = []
    for x, y in predicted:
        distances = [abs(x - point[0]) + abs(y - point[1]) for point in remaining]
        nearest = min(range(len(distances)), key=distances.__getitem__, default=None)
        if nearest is not None and distances[nearest] < MATCH_DISTANCE:
            matched.append(remaining.pop(nearest))
    precision = len(matched) / (len(predicted) + _EPSILON)
    recall = len(matched) / (num_reference + _EPSILON)
    return PointMatch(matched=tuple(matched), f1=2 * precision * recall / (precision + recall + _EPSILON))


def decimal_pairs(text: str) -> tuple[list[Point], bool]:
    """Successive pairs of the decimals in a text, and whether one was left over (and is dropped)."""
    decimals = [float(number) for number in _DECIMAL.findall(text)]
    return list(zip(decimals[::2], decimals[1::2], strict=False)), len(decimals) % 2 == 1


def apply_graph_gate(
    questions: Sequence[ReferenceQuestion], answers: Mapping[str, str]
) -> tuple[list[GradedQuestion], list[Problem]]:
    """Mark the questions whose points the answer to question 0 of their frame found; question 0 always counts."""
    graph: set[Point] = set()
    graded, failures = [], []
    for question in questions:
        answer = answers[question.id]
        if question.index == 0:
            graph = set(match_points(answer, question.answer).matched)
        points, odd = decimal_pairs(question.question)
        if odd and question.index > 0:
            failures.append(
                Problem(kind="odd_decimals", id=question.id, detail="in the question; the last one is dropped")
            )
        if (question.index == 0 or 3 in question.tags) and decimal_pairs(question.answer)[1]:
            failures.append(
                Problem(kind="odd_decimals", id=question.id, detail="in the reference answer; the last one is dropped")
            )
        eligible = question.index == 0 or all(point in graph for point in points)
        graded.append(GradedQuestion(question=question, answer=answer, eligible=eligible))
    return graded, failures


def final_score(
    *, accuracy: float, chatgpt: float | None, language: LanguageScores, match: float | None
) -> float | None:
    """The weighted sum of the four parts, each in 0..1; None without a judge."""
    if chatgpt is None or match is None:
        return None
    bleu = (language.bleu_1 + language.bleu_2 + language.bleu_3 + language.bleu_4) / 4
    parts = {
        "chatgpt": chatgpt / 100,
        "language": (bleu + language.rouge_l + language.cider / 10) / 3,
        "match": match / 100,
        "accuracy": accuracy,
    }
    return sum(weight * parts[name] for name, weight in FINAL_WEIGHTS.items())


def _accuracy(graded: Sequence[GradedQuestion]) -> float:
    return sum(g.answer == g.question.answer for g in graded) / len(graded) if graded else 0.0


def _mean_match_f1(graded: Sequence[GradedQuestion]) -> float:
    return sum(match_points(g.answer, g.question.answer).f1 for g in graded) / len(graded) if graded else 0.0


def _match(match_f1: float, rating: float | None) -> float | None:
    return None if rating is None else (100 * match_f1 + rating) / 2


def _mean_rating(graded: Sequence[GradedQuestion], ratings: Mapping[str, float] | None) -> float | None:
    if ratings is None:
        return None
    return sum(ratings[g.question.id] for g in graded) / len(graded) if graded else 0.0


def _rate(graded: Sequence[GradedQuestion], judge: Judge | NoJudge) -> tuple[dict[str, float] | None, list[Problem]]:
    """The judge's rating (0..100) by question, or None without a judge."""
    if isinstance(judge, NoJudge):
        return None, []
    ratings: dict[str, float] = {}
    failures = []
    for g in graded:
        reply = judge.reply(g.answer, g.question.answer)
        ratings[g.question.id], is_plain = parse_reply(reply)
        if not is_plain:
            detail = f"got {reply[:80]!r}, expected a number; taken as {ratings[g.question.id]}"
            failures.append(Problem(kind="judge_reply", id=g.question.id, detail=detail))
    return ratings, failures


def _language(graded: Sequence[GradedQuestion]) -> tuple[LanguageScores, list[Problem]]:
    """Scores of the language bucket (zero where it is empty), and the answers with line breaks that matter."""
    if not graded:
        return LanguageScores(bleu_1=0.0, bleu_2=0.0, bleu_3=0.0, bleu_4=0.0, rouge_l=0.0, cider=0.0), []
    answers, references = [g.answer for g in graded], [g.question.answer for g in graded]
    failures = [
        Problem(kind="line_break", id=g.question.id, detail="made a space; the original shifts later answers by a line")
        for g in graded
        if any(LINE_BREAK.search(text.replace("\n", " ")) for text in (g.answer, g.question.answer))
    ]
    tokens, reference_tokens = tokenize_lines(answers), tokenize_lines(references)
    if not any(reference_tokens):
        failures.append(Problem(kind="empty_references", id="language", detail="no reference has a word; CIDEr is 0"))
    return language_scores(tokens, reference_tokens), failures


def _counts(graded: Sequence[GradedQuestion], failures: Sequence[Problem]) -> dict[str, Any]:
    by_tag = {name: [g for g in graded if tag in g.question.tags] for tag, name in enumerate(BUCKETS)}
    kinds = sorted({failure.kind for failure in failures})
    return {
        "questions": len(graded),
        "total": {name: len(bucket) for name, bucket in by_tag.items()},
        "eligible": {name: sum(g.eligible for g in bucket) for name, bucket in by_tag.items()},
        "gated_out": sum(not g.eligible for g in graded),
        "failures": {kind: sum(failure.kind == kind for failure in failures) for kind in kinds},
    }
