"""Answers in, how far their points lie from the reference's out: in pixels, by camera and by distance of the object.

The official match only says whether a point is nearer than 16 pixels. Here every reference point gets its nearest
answered one at the same camera, however far that is, so that the size of the error shows.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data_shards.schema import CAMERAS
from trainer.evaluate.drivelm import GradedQuestion
from trainer.evaluate.failures_tags import asks_for_objects
from trainer.evaluate.submission import object_infos
from trainer.evaluate.tags import MATCH_DISTANCE, Tag, meant_tags
from trainer.evaluate.tally import share

DISTANCE_BOUNDS = (10.0, 15.0, 20.0, 30.0)
"""Metres; where one group of distances ends and the next begins."""

UNKNOWN = "unknown"


def centre_points(graded: Iterable[GradedQuestion], references: Mapping[str, Any]) -> dict[str, Any]:
    """Errors of the points of answers that name objects: the frame's first one, and those with tag 3.

    Args:
        graded: questions with answers.
        references: DriveLM's test form; an object's `Distance` in metres is read from its `key_object_infos`, which
            DriveLM's own files do not have.

    Returns:
        `all`, `by_camera` and `by_distance` (groups such as `10-15 m`, or `unknown`), each of rows {points, paired,
        within, median, mean, p90}: reference points, those that got a partner, the share of all that lie less than 16
        pixels from theirs, and the errors of the paired ones in pixels (L2), None where there are none.
    """
    by_camera: defaultdict[str, list[float | None]] = defaultdict(list)
    by_distance: defaultdict[str, list[float | None]] = defaultdict(list)
    for g in filter(asks_for_objects, graded):
        infos = object_infos(references, g.question)
        for tag, error in point_errors(meant_tags(g.answer), meant_tags(g.question.answer)):
            by_camera[tag.camera].append(error)
            by_distance[distance_group(infos.get(tag.text, {}).get("Distance"))].append(error)
    return {
        "all": _row([error for errors in by_camera.values() for error in errors]),
        "by_camera": {camera: _row(by_camera[camera]) for camera in CAMERAS},
        "by_distance": {group: _row(by_distance[group]) for group in distance_groups() if group in by_distance},
    }


def point_errors(predicted: Sequence[Tag], reference: Sequence[Tag]) -> list[tuple[Tag, float | None]]:
    """Each reference tag with the distance in pixels (L2) of its partner, None without one.

    Tags of one camera are paired one to one, the nearest pair first.
    """
    pairs = sorted(
        (float(np.hypot(p.x - r.x, p.y - r.y)), i, j)
        for i, p in enumerate(predicted)
        for j, r in enumerate(reference)
        if p.camera == r.camera
    )
    errors: dict[int, float] = {}
    taken: set[int] = set()
    for error, i, j in pairs:
        if i not in taken and j not in errors:
            taken.add(i)
            errors[j] = error
    return [(tag, errors.get(j)) for j, tag in enumerate(reference)]


def distance_groups() -> list[str]:
    """Every group, the nearest first."""
    return [*(distance_group(bound - 1e-6) for bound in DISTANCE_BOUNDS), distance_group(DISTANCE_BOUNDS[-1]), UNKNOWN]


def distance_group(metres: Any) -> str:
    """Such as `10-15 m`; `unknown` for anything but a number of at least 0."""
    if not isinstance(metres, int | float) or isinstance(metres, bool) or not metres >= 0:
        return UNKNOWN
    place = int(np.searchsorted(DISTANCE_BOUNDS, metres, side="right"))
    low = DISTANCE_BOUNDS[place - 1] if place else 0.0
    return f"{low:g}-{DISTANCE_BOUNDS[place]:g} m" if place < len(DISTANCE_BOUNDS) else f"{low:g} m and more"


def _row(errors: Sequence[float | None]) -> dict[str, Any]:
    found = [error for error in errors if error is not None]
    return {
        "points": len(errors),
        "paired": len(found),
        "within": share(sum(error < MATCH_DISTANCE for error in found), len(errors)),
        "median": float(np.median(found)) if found else None,
        "mean": float(np.mean(found)) if found else None,
        "p90": float(np.percentile(found, 90)) if found else None,
    }
