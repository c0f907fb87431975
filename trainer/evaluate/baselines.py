"""Training questions with answers in, a baseline that looks at nothing out: each template's most frequent answer."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.evaluate.submission import reference_questions

_OPTIONS_START = re.compile(r"\s(?=A\. )")
_OPTION = re.compile(r"(?:^|\s)([A-Z])\. (.*?)(?=\s[A-Z]\. |$)", re.DOTALL)
_TAG = re.compile(r"<[^<>]*>")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

Counts = Mapping[str, Counter[str]]


@dataclass(frozen=True, kw_only=True)
class MajorityAnswers:
    """Training answers counted by template, by kind of question and over all; options apart, by their text."""

    open_answers: Counts
    options: Counts

    def answer(self, question: str) -> str:
        """The most frequent answer of the question's template, else of its kind, else of all; "" if there is none.

        For a multiple choice the offered option whose text was right most often, as its letter.
        """
        keys = (question_template(question), _kind(question), "")
        offered = offered_options(question)
        if offered:
            for counts in (self.options[key] for key in keys if key in self.options):
                best = max(offered, key=lambda letter: counts[offered[letter]])
                if counts[offered[best]]:
                    return best
            return next(iter(offered))
        return next((self.open_answers[key].most_common(1)[0][0] for key in keys if key in self.open_answers), "")


def majority_answers(train_questions: Iterable[tuple[str, str]]) -> MajorityAnswers:
    """Count (question, answer) pairs. Of answers equally frequent the one met first wins."""
    open_answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    options: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question, answer in train_questions:
        offered = offered_options(question)
        counts, text = (options, offered.get(answer, answer)) if offered else (open_answers, answer)
        for key in (question_template(question), _kind(question), ""):
            counts[key][text] += 1
    return MajorityAnswers(open_answers=dict(open_answers), options=dict(options))


def majority_predictions(
    train_questions: Iterable[tuple[str, str]], references: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Submission rows of this baseline for every question of the references (DriveLM's test form)."""
    majority = majority_answers(train_questions)
    return [
        {"id": question.id, "question": question.question, "answer": majority.answer(question.question)}
        for question in reference_questions(references)
    ]


def offered_options(question: str) -> dict[str, str]:
    """Letter to text of a multiple choice (at least A and B, in order), empty for other questions."""
    start = _OPTIONS_START.search(question)
    options = _OPTION.findall(question[start.end() :]) if start else []
    letters = [letter for letter, _ in options]
    if len(letters) < 2 or letters != [chr(ord("A") + i) for i in range(len(letters))]:
        return {}
    return {letter: text.strip() for letter, text in options}


def question_template(question: str) -> str:
    """The question with its options left out, tags and numbers abstracted."""
    if offered_options(question):
        question = _OPTIONS_START.split(question, maxsplit=1)[0]
    return _NUMBER.sub("<number>", _TAG.sub("<object>", question)).strip()


def _kind(question: str) -> str:
    """What a question of an unknown template falls back to: its first word."""
    return " ".join(question.split()[:1]).lower()
