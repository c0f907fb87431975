"""References and submission rows in, DriveLM's official scores out, and what they leave out or stumble over.

Follows the evaluation of OpenDriveLab/DriveLM at commit 1de72a7: graph gate, accuracy, judge, language, match, final.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainer.evaluate.judge import Judge, NoJudge
from trainer.evaluate.objects import is_object_question, object_f1
from trainer.evaluate.ptb_tokenizer import LINE_BREAK, tokenize_lines
from trainer.evaluate.ratings import Ratings, rate
from trainer.evaluate.submission import (
    Problem,
    ReferenceQuestion,
    answers_by_id,
    count_problems,
    reference_questions,
)
from trainer.evaluate.tags import MATCH_DISTANCE, MAX_READ
from trainer.evaluate.text_metrics import LanguageScores, PairStatistics, corpus_scores, pair_statistics

BUCKETS = ("accuracy", "chatgpt", "language", "match")
"""What a question's tag says it is scored by: tag 0 accuracy, 1 chatgpt, 2 language, 3 match."""

FINAL_WEIGHTS = {"chatgpt": 0.4, "language": 0.2, "match": 0.2, "accuracy": 0.2}

_DECIMAL = re.compile(r"(?<!\d)\d+\.\d+")  # the look-behind keeps long runs of digits linear
_EPSILON = 1e-8

Point = tuple[float, float]
Tokenize = Callable[[Sequence[str]], list[str]]


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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All that scores are made of.

    Attributes:
        graded: every question, in the order of the references.
        ratings: of the judge, None without one.
        f1: of every question with tag 3, by id.
        language: statistics of the language bucket's questions, of those that pass the gate and of all.
        failures: everything at which the original raises or changes its result.
    """

    graded: tuple[GradedQuestion, ...]
    ratings: Ratings | None
    f1: Mapping[str, float]
    language: tuple[PairStatistics, PairStatistics]
    failures: tuple[Problem, ...]

    def bucket(self, name: str, *, gated: bool = True) -> list[GradedQuestion]:
        """Questions that are scored by `name` (of `BUCKETS`): those the gate lets through, or all."""
        tag = BUCKETS.index(name)
        return [g for g in self.graded if tag in g.question.tags and (g.eligible or not gated)]

    def parts(self, *, gated: bool = True) -> dict[str, Any]:
        """{accuracy, chatgpt, language, match, match_f1, final}, None where a judge is missing; empty buckets are 0."""
        accuracy = _mean(g.answer == g.question.answer for g in self.bucket("accuracy", gated=gated))
        chatgpt = self._rating("chatgpt", gated=gated)
        language = corpus_scores(self.language[0 if gated else 1])
        match_f1 = _mean(self.f1[g.question.id] for g in self.bucket("match", gated=gated))
        rating = self._rating("match", gated=gated)
        match = None if rating is None else (100 * match_f1 + rating) / 2
        final = final_score(accuracy=accuracy, chatgpt=chatgpt, language=language, match=match)
        return {
            "accuracy": accuracy,
            "chatgpt": chatgpt,
            "language": asdict(language),
            "match": match,
            "match_f1": match_f1,
            "final": final,
        }

    def _rating(self, name: str, *, gated: bool) -> float | None:
        if self.ratings is None or (not gated and not self.ratings.of_all):
            return None
        return self.ratings.mean([g.question.id for g in self.bucket(name, gated=gated)])

    def summary(self) -> dict[str, Any]:
        """What `score` returns."""
        official = self.parts()
        match_f1 = official.pop("match_f1")
        described = (
            (g.answer[:MAX_READ], g.question.answer) for g in self.graded if is_object_question(g.question.question)
        )
        return {
            "official": official,
            "match_f1": match_f1,
            "counts": _counts(self.graded, self.failures),
            "ungated": self.parts(gated=False),
            "object_f1": asdict(object_f1(described)),
            "failures": [asdict(failure) for failure in self.failures],
        }


def score(references: Mapping[str, Any], predictions: Sequence[Any], judge: Judge | NoJudge) -> dict[str, Any]:
    """Official scores and what belongs beside them, ready for JSON.

    Args:
        references: DriveLM's test form, see `submission.reference_questions`.
        predictions: rows {id, question, answer}; a missing one is an empty answer, of duplicates the last counts.
        judge: rates tags 1 and 3; with `NoJudge` chatgpt, match and final are None.

    Returns:
        `official` {accuracy, chatgpt, language {bleu_1..bleu_4, rouge_l, cider}, match, final}; `match_f1` (tag 3
        without the judge, 0..1); `counts`; `ungated`, the same of all questions, with its match_f1; `object_f1` {micro,
        macro, frames}; `failures`, a row {kind, id, detail} for everything at which the original raises or changes its
        result.

    Raises:
        SubmissionError: the references are not of the test form.
    """
    return evaluate(references, predictions, judge).summary()


def evaluate(
    references: Mapping[str, Any],
    predictions: Sequence[Any],
    judge: Judge | NoJudge,
    *,
    tokenize: Tokenize = tokenize_lines,
    rate_all: bool = True,
    problems: Sequence[Problem] = (),
) -> Evaluation:
    """Grade every question.

    Args:
        references, predictions, judge: as for `score`.
        tokenize: texts to tokens joined by spaces, in the context of the lines around them.
        rate_all: also ask the judge about questions that the gate drops, for the ungated scores.
        problems: of reading the predictions, for `failures`.

    Raises:
        SubmissionError: the references are not of the test form.
    """
    questions = list(reference_questions(references))
    answers, failures = answers_by_id(predictions, questions)
    graded, gate_failures = apply_graph_gate(questions, answers)
    failures = [*problems, *failures, *gate_failures]
    failures += [
        Problem(
            kind="long_answer", id=name, detail=f"{len(answer)} characters; all count but for judge and failure modes"
        )
        for name, answer in answers.items()
        if len(answer) > MAX_READ
    ]
    failures += [
        Problem(kind="empty_bucket", id=name, detail="no question to score, which counts as 0")
        for tag, name in enumerate(BUCKETS)
        if not any(g.eligible and tag in g.question.tags for g in graded)
    ]
    judged = [g for g in graded if {1, 3} & set(g.question.tags) and (g.eligible or rate_all)]
    asked = [(g.question.id, g.answer, g.question.answer) for g in judged]
    ratings, judge_failures = rate(asked, judge, of_all=rate_all)
    described = [g for g in graded if 2 in g.question.tags]
    language, line_failures = _language([g for g in described if g.eligible], tokenize)
    is_dropping = any(not g.eligible for g in described)
    return Evaluation(
        graded=tuple(graded),
        ratings=ratings,
        f1={g.question.id: match_points(g.answer, g.question.answer).f1 for g in graded if 3 in g.question.tags},
        language=(language, _language(described, tokenize)[0] if is_dropping else language),
        failures=(*failures, *judge_failures, *line_failures),
    )


def bucket_of(question: ReferenceQuestion) -> str:
    """What a question is scored by; of several tags the last, `none` without one."""
    return next((BUCKETS[tag] for tag in sorted(question.tags, reverse=True) if 0 <= tag < len(BUCKETS)), "none")


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


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def _language(graded: Sequence[GradedQuestion], tokenize: Tokenize) -> tuple[PairStatistics, list[Problem]]:
    """Statistics of the language bucket, and the answers with line breaks that matter."""
    answers, references = [g.answer for g in graded], [g.question.answer for g in graded]
    failures = [
        Problem(kind="line_break", id=g.question.id, detail="made a space; the original shifts later answers by a line")
        for g in graded
        if any(LINE_BREAK.search(text.replace("\n", " ")) for text in (g.answer, g.question.answer))
    ]
    tokens, reference_tokens = tokenize(answers), tokenize(references)
    if graded and not any(reference_tokens):
        failures.append(Problem(kind="empty_references", id="language", detail="no reference has a word; CIDEr is 0"))
    return pair_statistics(tokens, reference_tokens), failures


def _counts(graded: Sequence[GradedQuestion], failures: Sequence[Problem]) -> dict[str, Any]:
    by_tag = {name: [g for g in graded if tag in g.question.tags] for tag, name in enumerate(BUCKETS)}
    return {
        "questions": len(graded),
        "total": {name: len(bucket) for name, bucket in by_tag.items()},
        "eligible": {name: sum(g.eligible for g in bucket) for name, bucket in by_tag.items()},
        "gated_out": sum(not g.eligible for g in graded),
        "failures": count_problems(failures),
    }
