"""References and one file of predictions in, its scores and the credit of every answer out."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.evaluate.baselines import offered_options, question_template
from trainer.evaluate.drivelm import bucket_of, match_points
from trainer.evaluate.judge import Judge, NoJudge
from trainer.evaluate.lint import lint
from trainer.evaluate.ptb_tokenizer import tokenize_lines
from trainer.evaluate.scorecard import scorecard
from trainer.evaluate.submission import Problem, ReferenceQuestion, answers_by_id, reference_questions
from trainer.evaluate.text_metrics import rouge_l

RIGHT_FROM = 0.5
"""Credit from which an answer that is not scored by equality counts as right."""

MEASURES = {"accuracy": "exact", "chatgpt": "ROUGE_L", "language": "ROUGE_L", "match": "F1", "none": "ROUGE_L"}
"""What an answer's credit (0..1) is, by what the benchmark scores it by."""

MAX_JUDGED = 4000
"""Characters of an answer that count for its credit: a runaway answer is wrong without being read to its end."""


@dataclass(frozen=True, kw_only=True)
class Graded:
    """One answer: credit in 0..1 by `MEASURES`, and whether it counts as right."""

    question: ReferenceQuestion
    answer: str
    credit: float

    @property
    def bucket(self) -> str:
        """What the benchmark scores the question by."""
        return bucket_of(self.question)

    @property
    def is_right(self) -> bool:
        """Equal to the reference where that is the measure, else at least half the credit."""
        return self.credit >= (1.0 if self.bucket == "accuracy" else RIGHT_FROM)


@dataclass(frozen=True, kw_only=True)
class System:
    """One file of predictions.

    Attributes:
        name: shown.
        scores: of `scorecard.scorecard`.
        graded: every question of the references, in their order.
        problems: of `lint`, the whole file.
    """

    name: str
    scores: Mapping[str, Any]
    graded: tuple[Graded, ...]
    problems: tuple[Problem, ...]


def make_system(
    name: str,
    rows: Sequence[Any],
    references: Mapping[str, Any],
    judge: Judge | NoJudge,
    found: Sequence[Problem] = (),
) -> System:
    """Score and grade one file of predictions; a missing answer is an empty one. `found` is of reading the file."""
    questions = list(reference_questions(references))
    answers, _ = answers_by_id(rows, questions)
    return System(
        name=name,
        scores=scorecard(references, rows, judge, problems=found)[0],
        graded=tuple(_grade(questions, answers)),
        problems=tuple(lint(rows, references)),
    )


def question_type(question: ReferenceQuestion) -> tuple[str, str]:
    """Kind and bucket: what questions are grouped by."""
    return question.kind, bucket_of(question)


def mean_credit(graded: Sequence[Graded]) -> float:
    """Mean credit in 0..1; 0 for none."""
    return sum(g.credit for g in graded) / len(graded) if graded else 0.0


def by_type(graded: Sequence[Graded]) -> dict[tuple[str, str], list[Graded]]:
    """Answers by `question_type`, in the order in which types first occur."""
    groups: defaultdict[tuple[str, str], list[Graded]] = defaultdict(list)
    for g in graded:
        groups[question_type(g.question)].append(g)
    return dict(groups)


def by_template(graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    """Answers by the template of their question."""
    groups: defaultdict[str, list[Graded]] = defaultdict(list)
    for g in graded:
        groups[question_template(g.question.question)].append(g)
    return dict(groups)


def confusions(graded: Sequence[Graded]) -> Counter[tuple[str, str]]:
    """(reference, answer) of wrong answers to the questions scored by equality, letters as their options' texts."""
    found: Counter[tuple[str, str]] = Counter()
    for g in graded:
        if g.bucket == "accuracy" and not g.is_right:
            options = offered_options(g.question.question)
            found[options.get(g.question.answer, g.question.answer), options.get(g.answer, g.answer)] += 1
    return found


def _grade(questions: Sequence[ReferenceQuestion], answers: Mapping[str, str]) -> list[Graded]:
    given = [answers[question.id] for question in questions]
    tokens = tokenize_lines([answer[:MAX_JUDGED] for answer in given])
    reference_tokens = tokenize_lines([question.answer[:MAX_JUDGED] for question in questions])
    return [
        Graded(question=question, answer=answer, credit=_credit(question, answer, words, reference_words))
        for question, answer, words, reference_words in zip(questions, given, tokens, reference_tokens, strict=True)
    ]


def _credit(question: ReferenceQuestion, answer: str, words: str, reference_words: str) -> float:
    measure = bucket_of(question)
    if measure == "accuracy":
        return float(answer == question.answer)
    if measure == "match":
        return match_points(answer[:MAX_JUDGED], question.answer).f1
    return rouge_l(words, reference_words)
