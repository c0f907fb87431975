"""Answers in, object tags `<c1,CAM_FRONT,800.0,450.0>` out, as written or as meant, and how two lists of them agree."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MATCH_DISTANCE = 16.0
"""Pixels of the 1600x900 view; a point closer than this to a reference point is a match."""

MAX_READ = 20_000
"""Characters of an answer that are read for its tags and sent to a judge; DriveLM's have fewer than 2,000."""

EXACT_TAG = re.compile(r"<c\d+,CAM_(?:FRONT|BACK)(?:_LEFT|_RIGHT)?,(\d+\.\d),(\d+\.\d)>")
"""A tag as DriveLM writes it, with one decimal; the groups are x and y."""

BARE_TAG = r"(?<![\w<(\[])c\s{0,3}\d+\s{0,3},\s{0,3}CAM_?[A-Z_]*(?:\s{0,3},\s{0,3}\d+(?:\.\d+)?){0,2}"
"""Expression of a tag that has lost its brackets."""

_FARTHEST = 1e9
"""Pixels; what is written as more is read as this, so that every distance is a number."""

_EPSILON = 1e-8
_CAMERA = "CAM_(?:FRONT|BACK)(?:_LEFT|_RIGHT)?"
_WELL_FORMED = re.compile(rf"<c(\d+),({_CAMERA}),(\d+\.\d+),(\d+\.\d+)>")
_SPACE = r"\s{0,3}"
_MEANT = re.compile(
    rf"[<(\[]{_SPACE}c?{_SPACE}(\d+){_SPACE},{_SPACE}({_CAMERA}){_SPACE},"
    rf"{_SPACE}(\d+(?:\.\d+)?){_SPACE},{_SPACE}(\d+(?:\.\d+)?){_SPACE}[>)\]]"
)


@dataclass(frozen=True, kw_only=True)
class Tag:
    """An object's number, camera and point in pixels of the 1600x900 view, and the tag as it was written."""

    number: int
    camera: str
    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True)
class TagMatch:
    """Predicted and reference tags that go together, and how many there are of each."""

    pairs: tuple[tuple[Tag, Tag], ...]
    num_predicted: int
    num_reference: int

    @property
    def f1(self) -> float:
        """Over tags, 0..1, with the official evaluation's 1e-8 in every denominator."""
        precision = len(self.pairs) / (self.num_predicted + _EPSILON)
        recall = len(self.pairs) / (self.num_reference + _EPSILON)
        return 2 * precision * recall / (precision + recall + _EPSILON)


def well_formed_tags(text: str) -> list[Tag]:
    """Tags to the letter: no space, decimals, a camera of the six."""
    return _read(_WELL_FORMED, text)


def meant_tags(text: str) -> list[Tag]:
    """Also tags that are spaced, whole-numbered or in other brackets."""
    return _read(_MEANT, text)


def match_strictly(predicted: Sequence[Tag], reference: Sequence[Tag]) -> TagMatch:
    """One to one in the order of the prediction, at the same camera, nearest first, L2 distance below 16."""
    return _match(predicted, reference, lambda a, b: _far(a, b) if a.camera == b.camera else MATCH_DISTANCE)


def match_anywhere(predicted: Sequence[Tag], reference: Sequence[Tag]) -> TagMatch:
    """As officially: L1 distance below 16, whatever the camera."""
    return _match(predicted, reference, lambda a, b: abs(a.x - b.x) + abs(a.y - b.y))


def _far(first: Tag, second: Tag) -> float:
    return float(((first.x - second.x) ** 2 + (first.y - second.y) ** 2) ** 0.5)


def _match(predicted: Sequence[Tag], reference: Sequence[Tag], distance: Callable[[Tag, Tag], float]) -> TagMatch:
    remaining = list(reference)
    pairs = []
    for tag in predicted:
        nearest = min(remaining, key=lambda other: distance(tag, other), default=None)
        if nearest is not None and distance(tag, nearest) < MATCH_DISTANCE:
            remaining.remove(nearest)
            pairs.append((tag, nearest))
    return TagMatch(pairs=tuple(pairs), num_predicted=len(predicted), num_reference=len(reference))


def _read(form: re.Pattern[str], text: str) -> list[Tag]:
    if "CAM_" not in text:
        return []
    return [
        Tag(number=int(match[1][-9:]), camera=match[2], x=_pixels(match[3]), y=_pixels(match[4]), text=match[0])
        for match in form.finditer(text[:MAX_READ])
    ]


def _pixels(number: str) -> float:
    return min(float(number), _FARTHEST)
