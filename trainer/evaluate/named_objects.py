"""Answers that list a frame's important objects in, how many of them were named out: by camera and by distance.

Pixels aside: an object is found where the answer names its class at its camera. `centre_points` says how exactly.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from data_shards.schema import CAMERAS
from trainer.evaluate.centre_points import distance_group, distance_groups
from trainer.evaluate.drivelm import GradedQuestion
from trainer.evaluate.objects import class_and_colour, described_phrases, is_object_question
from trainer.evaluate.submission import object_infos
from trainer.evaluate.tags import MAX_READ, meant_tags
from trainer.evaluate.tally import share

Object = tuple[str, str, str]
"""Camera, class, colour."""


def named_objects(graded: Iterable[GradedQuestion], references: Mapping[str, Any]) -> dict[str, Any]:
    """The objects of the reference answers to the frames' object questions, and which of them the answers name.

    Args:
        graded: questions with answers.
        references: DriveLM's test form; an object's `Distance` in metres is read from its `key_object_infos`.

    Returns:
        `all`, `by_camera` and `by_distance` (groups as in `centre_points`), each of rows {objects, found, with_colour}:
        reference objects, the share of them named at the same camera with the same class, and with the same colour too.
        Each object of an answer counts once.
    """
    rows: list[tuple[str, str, bool, bool]] = []
    for g in graded:
        if is_object_question(g.question.question):
            infos = object_infos(references, g.question)
            tags = meant_tags(g.question.answer)
            expected, answered = _objects(g.question.answer), _objects(g.answer)
            found, coloured = _claimed(expected, answered, 2), _claimed(expected, answered, 3)
            for place, item in enumerate(expected):
                info = infos.get(tags[place].text, {}) if place < len(tags) else {}
                rows.append((item[0], distance_group(info.get("Distance")), found[place], coloured[place]))
    by_camera, by_distance = defaultdict(list), defaultdict(list)
    for camera, group, is_found, has_colour in rows:
        by_camera[camera].append((is_found, has_colour))
        by_distance[group].append((is_found, has_colour))
    return {
        "all": _row([hits for own in by_camera.values() for hits in own]),
        "by_camera": {camera: _row(by_camera[camera]) for camera in CAMERAS},
        "by_distance": {group: _row(by_distance[group]) for group in distance_groups() if group in by_distance},
    }


def _objects(answer: str) -> list[Object]:
    return [(camera, *class_and_colour(words)) for camera, words in described_phrases(answer[:MAX_READ])]


def _claimed(expected: list[Object], answered: list[Object], parts: int) -> list[bool]:
    """Whether each expected object is among the answered ones by its first `parts` parts, each of which serves once."""
    left = Counter(item[:parts] for item in answered)
    hits = []
    for item in expected:
        hits.append(left[item[:parts]] > 0)
        left[item[:parts]] -= 1
    return hits


def _row(hits: list[tuple[bool, bool]]) -> dict[str, Any]:
    return {
        "objects": len(hits),
        "found": share(sum(found for found, _ in hits), len(hits)),
        "with_colour": share(sum(coloured for _, coloured in hits), len(hits)),
    }
