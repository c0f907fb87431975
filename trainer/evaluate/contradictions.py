"""The answers of each frame in, pairs of them that cannot both be true out, beside the references' own rate."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from trainer.evaluate.baselines import offered_options
from trainer.evaluate.drivelm import GradedQuestion
from trainer.evaluate.objects import described_objects, is_object_question
from trainer.evaluate.tags import MAX_READ, Tag, match_strictly, meant_tags
from trainer.evaluate.tally import Tally, share

Said = Sequence[tuple[GradedQuestion, str]]
"""Questions of one frame, and what is answered: by the model, or by the reference."""

Checked = Iterator[tuple[str, bool]]
"""(id of the later question, whether it contradicts an earlier one) of every pair that says something of the same."""

_NOTICED = re.compile(r"(<[^<>]{1,80}>)\W{1,10}The object is ([^,.]{1,80})", re.IGNORECASE)
_MOTIONS = {
    "stopped": r"stopped|stationary|parked|not moving|standing",
    "back": r"back(?:ing)? up|revers",
    "left": r"left",
    "right": r"right",
    "ahead": r"going ahead|going straight|moving|driving",
}
_MOTION = {motion: re.compile(pattern, re.IGNORECASE) for motion, pattern in _MOTIONS.items()}
_SIGN_QUESTION = "a traffic sign or a road barrier?"
_SIGNS = frozenset(
    (
        "traffic sign",
        "stop sign",
        "road sign",
        "sign",
        "no entry",
        "traffic barrier",
        "barrier",
        "traffic light",
        "light",
    )
)
_VEHICLES = frozenset(("car", "sedan", "suv", "truck", "bus", "van", "motorcycle", "bicycle", "pedestrian", "vehicle"))
_ACTION_BREAK = re.compile(r"[,.;]|\band\b|\bor\b", re.IGNORECASE)


def contradictions(graded: Sequence[GradedQuestion]) -> dict[str, dict[str, Any]]:
    """{rule: {checked, contradictory, share, examples, references}}; `references` is the references' own share.

    same_question: one question of a frame, two answers. listed_noticed: an object noticed first that is not among the
    listed ones. status_noticed: another motion of one object. sign_listed: an object said to be a sign or barrier and
    listed as a vehicle, or the reverse. behaviour_action: the ego vehicle steers left and its target is to turn right,
    or the reverse. safe_collision: one action both safe and leading to a collision.

    Two tags mean one object where they are at the same camera and less than 16 pixels apart; in the answers of one
    system also where they have the same camera and number.
    """
    frames: defaultdict[tuple[str, str], list[GradedQuestion]] = defaultdict(list)
    for g in graded:
        frames[g.question.scene, g.question.frame].append(g)
    said, expected = Tally(), Tally()
    for frame in frames.values():
        given = [(g, g.answer[:MAX_READ]) for g in frame]
        wanted = [(g, g.question.answer) for g in frame]
        for rule, check in RULES.items():
            for tally, answers in ((said, given), (expected, wanted)):
                for name, is_contradictory in check(answers):
                    tally.add(rule, name)
                    tally.add(f"{rule} wrong", name, int(is_contradictory))
    return {
        rule: {
            "checked": said.count(rule),
            "contradictory": said.count(f"{rule} wrong"),
            "share": share(said.count(f"{rule} wrong"), said.count(rule)),
            "examples": said.examples(f"{rule} wrong"),
            "references": share(expected.count(f"{rule} wrong"), expected.count(rule)),
        }
        for rule in RULES
    }


def motion_of(text: str) -> str:
    """stopped, back, left, right or ahead, whichever the text says first in this order; "" where it says none."""
    return next((motion for motion, pattern in _MOTION.items() if pattern.search(text)), "")


def _same_question(said: Said) -> Checked:
    answers: dict[str, str] = {}
    for g, answer in said:
        question = " ".join(g.question.question.split())
        if question in answers:
            yield g.question.id, answers[question] != answer.strip()
        answers.setdefault(question, answer.strip())


def _listed_noticed(said: Said) -> Checked:
    listed = _listed(said)
    named = {(tag.camera, tag.number) for tag in listed}
    if listed:
        for g, answer in said:
            if 3 in g.question.tags:
                for tag in meant_tags(answer):
                    yield g.question.id, (tag.camera, tag.number) not in named and _same_place(tag, listed) is None


def _status_noticed(said: Said) -> Checked:
    noticed = {
        tag: motion_of(match[2])
        for g, answer in said
        if 3 in g.question.tags
        for match in _NOTICED.finditer(answer)
        for tag in meant_tags(match[1])
    }
    for g, answer in said:
        if "moving status of object" in g.question.question:
            motion = motion_of(offered_options(g.question.question).get(answer.strip(), answer))
            for tag in meant_tags(g.question.question):
                other = _same_place(tag, noticed)
                if motion and other and noticed[other]:
                    yield g.question.id, noticed[other] != motion


def _sign_listed(said: Said) -> Checked:
    listed = _listed(said)
    for g, answer in said:
        if g.question.question.endswith(_SIGN_QUESTION) and answer.strip().rstrip(".").lower() in ("yes", "no"):
            is_sign = answer.strip().lower().startswith("yes")
            for tag in meant_tags(g.question.question):
                other = _same_place(tag, listed)
                noun = listed[other] if other else ""
                if noun in _SIGNS or noun in _VEHICLES:
                    yield g.question.id, is_sign and noun in _VEHICLES or not is_sign and noun in _SIGNS


def _behaviour_action(said: Said) -> Checked:
    steering = ""
    for g, answer in said:
        question = g.question.question
        text = offered_options(question).get(answer.strip(), answer)
        if question.startswith("What is the target action of the ego vehicle"):
            steering = motion_of(text)
        elif question.startswith("Predict the behavior of the ego vehicle"):
            behaviour = next((side for side in ("left", "right") if side in text), "")
            if behaviour and steering in ("left", "right"):
                yield g.question.id, behaviour != steering


def _safe_collision(said: Said) -> Checked:
    safe = {
        action for g, answer in said if "safe actions to take" in g.question.question for action in _actions(answer)
    }
    for g, answer in said:
        if "can lead to a collision" in g.question.question and safe and (dangerous := _actions(answer)):
            yield g.question.id, bool(safe & dangerous)


def _listed(said: Said) -> dict[Tag, str]:
    """Class noun ("" where it is not said) by tag of the objects that the frame's object question is answered with."""
    for g, answer in said:
        if is_object_question(g.question.question):
            nouns = [noun for _, noun in described_objects(answer)]
            tags = meant_tags(answer)
            return dict(zip(tags, nouns + [""] * len(tags), strict=False))
    return {}


def _same_place(tag: Tag, others: Iterable[Tag]) -> Tag | None:
    """The nearest of the others at the same camera and less than 16 pixels away."""
    pairs = match_strictly([tag], list(others)).pairs
    return pairs[0][1] if pairs else None


def _actions(answer: str) -> set[str]:
    return {" ".join(part.lower().split()) for part in _ACTION_BREAK.split(answer)} - {""}


RULES: Mapping[str, Callable[[Said], Checked]] = {
    "same_question": _same_question,
    "listed_noticed": _listed_noticed,
    "status_noticed": _status_noticed,
    "sign_listed": _sign_listed,
    "behaviour_action": _behaviour_action,
    "safe_collision": _safe_collision,
}
