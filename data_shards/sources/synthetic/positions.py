"""A view in, questions for the points of its objects out: a probe of how well a model places what it sees."""

from collections.abc import Sequence

from data_shards.schema import Question
from data_shards.sources.synthetic.driver import DIRECTIONS, SeenObject, objects_in_view
from data_shards.sources.synthetic.objects import Scene, WorldObject
from data_shards.sources.synthetic.questions import object_info
from data_shards.sources.synthetic.wording import ask

_NUMBER = 1  # every answer names one object


def position_questions(scene: Scene, seen: Sequence[SeenObject], camera: str) -> tuple[Question, ...]:
    """Where the objects of a view are; an object's tag is the answer, which tag 3 scores. `seen` is of the scene.

    Of several of one name the leftmost is asked for. One that lies mainly in the next view is asked for there.
    """
    here = {entry.item: entry for entry in seen if entry.camera == camera}
    called: dict[str, list[WorldObject]] = {}
    for item in objects_in_view(scene, camera):
        called.setdefault(item.name, []).append(item)
    return tuple(
        ask(
            "perception",
            f"Where is the {'leftmost ' * (len(same) > 1)}{name} to the {DIRECTIONS[camera]} of the ego vehicle?",
            f"{here[same[0]].tag(_NUMBER)}.",
            3,
        )
        for name, same in called.items()
        if same[0] in here
    )


def position_infos(seen: Sequence[SeenObject]) -> dict[str, dict[str, object]]:
    """`key_object_infos` of these objects under the tags of `position_questions`."""
    return {entry.tag(_NUMBER): object_info(entry) for entry in seen}
