"""Answers in, points on the stitched six views and the cameras that objects were named at out."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from data_shards.schema import CAMERAS, VIEW_SIZE
from trainer.evaluate.objects import described_objects
from trainer.evaluate.tags import MAX_READ

COLUMNS = 3
CANVAS = (COLUMNS * VIEW_SIZE[0], len(CAMERAS) // COLUMNS * VIEW_SIZE[1])
"""Width and height of the stitched views in DriveLM's pixels."""

MAX_MARKS = 100
"""Points of one text that are drawn."""

_TAG = re.compile(r"<\s*(c\d{1,4})\s*,\s*(CAM_\w+?)\s*,\s*(\d{1,5}(?:\.\d+)?)\s*,\s*(\d{1,5}(?:\.\d+)?)\s*>")


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point on the stitched views, in their pixels; `label` is the tag's id."""

    label: str
    x: float
    y: float


def marks(answer: str) -> list[Mark]:
    """A text's first tags, each once, also ones that are spaced or whole-numbered; outside points go to the edge."""
    found = [parts for parts in dict.fromkeys(_TAG.findall(answer[:MAX_READ])) if parts[1] in CAMERAS]
    return [_mark(label, camera, float(x), float(y)) for label, camera, x, y in found[:MAX_MARKS]]


def cell(camera: str) -> tuple[int, int]:
    """Upper left corner of a camera's view on the canvas."""
    row, column = divmod(CAMERAS.index(camera), COLUMNS)
    return column * VIEW_SIZE[0], row * VIEW_SIZE[1]


def camera_counts(pairs: Iterable[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """How often an object of the reference at one camera was named at another: (reference, answer) to count.

    Args:
        pairs: answer and reference of the questions that list objects; objects of one class are paired, those at the
            same camera first, then the others in order. What has no partner is left out.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for answer, reference in pairs:
        named, wanted = Counter(described_objects(answer)), Counter(described_objects(reference))
        for (camera, _), number in (named & wanted).items():
            counts[camera, camera] += number
        left_named, left_wanted = list((named - wanted).elements()), list((wanted - named).elements())
        for camera, noun in left_wanted:
            partner = next((other for other in left_named if other[1] == noun), None)
            if partner is not None:
                left_named.remove(partner)
                counts[camera, partner[0]] += 1
    return counts


def _mark(label: str, camera: str, x: float, y: float) -> Mark:
    left, top = cell(camera)
    return Mark(label=label, x=left + min(x, VIEW_SIZE[0]), y=top + min(y, VIEW_SIZE[1]))
