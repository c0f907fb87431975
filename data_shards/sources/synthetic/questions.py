"""A scene in, its questions and answers in DriveLM's words out; every answer follows from what the views show."""

from collections.abc import Sequence

import numpy as np

from data_shards.schema import Question
from data_shards.sources.synthetic.decisions import behaviour, planning, prediction
from data_shards.sources.synthetic.driver import (
    SeenObject,
    right_driving,
    seen_objects,
)
from data_shards.sources.synthetic.objects import Scene
from data_shards.sources.synthetic.perception import perception
from data_shards.sources.synthetic.wording import status_answer


def scene_questions(scene: Scene, rng: np.random.Generator) -> tuple[Question, ...]:
    """All questions of a scene, the selected test form among them with its tags.

    Args:
        scene: what is there.
        rng: chooses what is asked about, balances yes against no, and shuffles options.
    """
    seen = seen_objects(scene)
    driving = right_driving(scene, seen)
    return (
        *perception(scene, seen, rng),
        *prediction(scene, seen, rng),
        *planning(scene, seen, driving),
        *behaviour(driving, rng),
    )


def key_object_infos(seen: Sequence[SeenObject]) -> dict[str, dict[str, object]]:
    """DriveLM's `key_object_infos` of the important objects, tag to `object_info`."""
    return {entry.tag(number): object_info(entry) for number, entry in enumerate(seen, 1)}


def object_info(entry: SeenObject) -> dict[str, object]:
    """Category, status, description and pixel box as in DriveLM, and `Distance`, metres from the ego vehicle."""
    return {
        "Category": entry.item.kind.category,
        "Status": status_answer(entry).rstrip(".") if entry.item.kind.moves else None,
        "Visual_description": f"{entry.name.capitalize()}.",
        "2d_bbox": [round(float(value), 1) for value in entry.box],
        "Distance": round(entry.item.distance, 1),
    }
