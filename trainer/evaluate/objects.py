"""An answer that lists important objects in, (camera, class) pairs out, and how well two such lists agree."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OBJECT_QUESTION = "What are the important objects in the current scene?"

_DIRECTION = re.compile(
    r"(?<!\s)\s+(?:to|in|at|on|from)\s+(?:the\s+)+(front|back)(?:\s+(left|right))?(?:\s+side)?"
    r"\s+of\s+(?:the\s+)*ego(?:\s+(?:vehicle|car))?",
    re.I,
)
_TAG = re.compile(r"<\s*c\s*\d+\s*,\s*(CAM_(?:FRONT|BACK)(?:_LEFT|_RIGHT)?)\b")
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_TWO_WORD_CLASSES = (
    "traffic cone", "traffic light", "traffic sign", "stop sign", "road sign", "traffic barrier",
    "construction vehicle", "no entry",
)  # fmt: skip
_COLOURS = frozenset(
    (
        "white", "black", "red", "blue", "green", "yellow", "orange", "brown", "gray", "grey", "silver", "gold",
        "golden", "champagne", "purple", "pink", "beige", "tan", "maroon",
    )
)  # fmt: skip
_ONE_COLOUR = {"grey": "gray", "golden": "gold"}


@dataclass(frozen=True, kw_only=True)
class ObjectF1:
    """F1 (0..1) over the multisets of (camera, class): `micro` over all objects, `macro` the mean over frames."""

    micro: float
    macro: float
    frames: int


def is_object_question(question: str) -> bool:
    """Whether a question asks for the important objects of the frame."""
    return question.startswith(OBJECT_QUESTION)


def object_f1(pairs: Iterable[tuple[str, str]]) -> ObjectF1:
    """Agreement of (answer, reference answer) pairs, one a frame, pixels aside.

    A frame where both name nothing has F1 1; no frames give 0.
    """
    frames = [
        (Counter(described_objects(answer)), Counter(described_objects(reference))) for answer, reference in pairs
    ]
    common = [(answer & reference).total() for answer, reference in frames]
    named = [answer.total() + reference.total() for answer, reference in frames]
    each = [2 * both / total if total else 1.0 for both, total in zip(common, named, strict=True)]
    return ObjectF1(
        micro=2 * sum(common) / sum(named) if sum(named) else float(bool(frames)),
        macro=sum(each) / len(each) if each else 0.0,
        frames=len(frames),
    )


def described_objects(answer: str) -> list[tuple[str, str]]:
    """(camera, class) of each object described as "a red car to the front left of the ego vehicle", in order.

    The i-th description goes with the i-th tag `<c1,CAM_FRONT,...>` of the text, which names the camera; where there is
    no i-th tag the direction does. The class is the noun before the direction, lower-cased: a two-word one of a known
    list, or else the last word.
    """
    return [(camera, _class_noun(words)) for camera, words in described_phrases(answer)]


def described_phrases(answer: str) -> list[tuple[str, list[str]]]:
    """(camera, words before the direction, lower-cased) of each object of `described_objects`."""
    cameras = _TAG.findall(answer)
    phrases = []
    start = 0
    for index, match in enumerate(_DIRECTION.finditer(answer)):
        words = [word.lower() for word in _WORD.findall(answer[start : match.start()])]
        start = match.end()
        side = "_".join(part.upper() for part in match.groups() if part)
        phrases.append((cameras[index] if index < len(cameras) else f"CAM_{side}", words))
    return phrases


def class_and_colour(words: Sequence[str]) -> tuple[str, str]:
    """Class noun and colour of a lower-cased phrase ("a champagne-colored sedan"); "" for what it does not say.

    Two spellings of a colour ("grey", "gray") are one.
    """
    colours = [word.removesuffix("-colored").removesuffix("-coloured") for word in words]
    colour = next((colour for colour in reversed(colours) if colour in _COLOURS), "")
    return _class_noun(list(words)), _ONE_COLOUR.get(colour, colour)


def _class_noun(words: list[str]) -> str:
    """The noun that ends a phrase; "" where there is none."""
    last_two = " ".join(words[-2:])
    return last_two if last_two in _TWO_WORD_CLASSES else "".join(words[-1:])
