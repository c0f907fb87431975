"""Training questions in, a baseline that reads the question and never sees the views out."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from data_shards.schema import CAMERAS
from trainer.evaluate.baselines import majority_answers, offered_options, question_template
from trainer.evaluate.submission import reference_questions
from trainer.evaluate.tags import meant_tags

NEIGHBOURS = 15
"""Training questions that vote."""

_OTHER_CAMERA = 10_000.0


def question_only_predictions(
    train_questions: Iterable[tuple[str, str]], references: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Submission rows for every question of the references (DriveLM's test form).

    An answer is the most frequent one among the `NEIGHBOURS` training questions of the same template whose first tag is
    nearest: at the same camera, then in pixels (L1). Of a multiple choice the offered option with most votes counts.
    Questions without a tag or without a template get `baselines.MajorityAnswers`.
    """
    train = list(train_questions)
    majority = majority_answers(train)
    places: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)
    answers: defaultdict[str, list[str]] = defaultdict(list)
    for text, answer in train:
        if place := _place(text):
            template = question_template(text)
            places[template].append(place)
            answers[template].append(offered_options(text).get(answer, answer))
    arrays = {template: np.array(listed, float) for template, listed in places.items()}
    rows = []
    for question in reference_questions(references):
        place, template = _place(question.question), question_template(question.question)
        answer = ""
        if place and template in arrays:
            votes = _votes(np.array(place, float), arrays[template], answers[template])
            answer = _elected(votes, offered_options(question.question))
        answer = answer or majority.answer(question.question)
        rows.append({"id": question.id, "question": question.question, "answer": answer})
    return rows


def _place(question: str) -> tuple[int, float, float] | None:
    """Camera's number, x and y of the first tag."""
    tags = meant_tags(question)
    return (CAMERAS.index(tags[0].camera), tags[0].x, tags[0].y) if tags else None


def _votes(place: npt.NDArray[np.float64], others: npt.NDArray[np.float64], answers: list[str]) -> Counter[str]:
    distance = np.abs(others[:, 1:] - place[1:]).sum(axis=1) + _OTHER_CAMERA * (others[:, 0] != place[0])
    return Counter(answers[i] for i in np.argsort(distance, kind="stable")[:NEIGHBOURS])


def _elected(votes: Counter[str], options: Mapping[str, str]) -> str:
    if not options:
        return votes.most_common(1)[0][0]
    best = max(options, key=lambda letter: votes[options[letter]])
    return best if votes[options[best]] else ""
