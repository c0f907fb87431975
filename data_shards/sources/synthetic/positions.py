"""What a view shows in, questions for the point of each object out: a probe of how well a model places what it sees."""

from collections.abc import Sequence

from data_shards.schema import Question
from data_shards.sources.synthetic.driver import SeenObject
from data_shards.sources.synthetic.questions import object_info
from data_shards.sources.synthetic.wording import ask

_NUMBER = 1  # every answer names one object


def position_questions(seen: Sequence[SeenObject]) -> tuple[Question, ...]:
    """Where each object is; its tag is the answer, which tag 3 scores. Of several of one name it is the leftmost.

    Args:
        seen: objects of one view from left to right, as `seen_objects` gives them.
    """
    called: dict[str, list[SeenObject]] = {}
    for entry in seen:
        called.setdefault(entry.name, []).append(entry)
    return tuple(
        ask(
            "perception",
            f"Where is the {'leftmost ' if len(same) > 1 else ''}{name} to the {same[0].direction} of the ego vehicle?",
            f"{same[0].tag(_NUMBER)}.",
            3,
        )
        for name, same in called.items()
    )


def position_infos(seen: Sequence[SeenObject]) -> dict[str, dict[str, object]]:
    """`key_object_infos` of these objects under the tags of `position_questions`."""
    return {entry.tag(_NUMBER): object_info(entry) for entry in seen}
