"""A scene in, the perception questions out: what is where, of which colour, how many, and whether it moves."""

from collections.abc import Iterator, Sequence

import numpy as np

from data_shards.schema import Question
from data_shards.sources.multiple_choice import multiple_choice
from data_shards.sources.synthetic.driver import (
    DIRECTIONS,
    SeenObject,
    objects_in_view,
    traffic_light,
)
from data_shards.sources.synthetic.objects import Scene
from data_shards.sources.synthetic.wording import (
    NUMBERS,
    STATES,
    ask,
    counted,
    enumerated,
    plural,
    status_answer,
    tagged_objects,
    there_is,
    with_article,
    with_state,
    yes_or_no,
)
from data_shards.sources.synthetic.world import draw_kind

IMPORTANT_OBJECTS = (
    "What are the important objects in the current scene? "
    "Those objects will be considered for the future reasoning and driving decision."
)
MOVING_STATUS = "What is the moving status of object {tag}?"
STATUSES = tuple(f"{status}." for status in STATES)
"""Every moving status there can be: an option that never is right would give the others away."""


def perception(scene: Scene, seen: list[SeenObject], rng: np.random.Generator) -> Iterator[Question]:
    """What each view shows; status, looks and colour of each important object; what is where; the scene as a whole."""
    yield ask("perception", IMPORTANT_OBJECTS, _important_answer(seen), 2)
    for camera in DIRECTIONS:
        named = [with_state(item) for item in objects_in_view(scene, camera)]
        yield ask("perception", f"What does {camera} show?", f"It shows {enumerated(named) or 'no objects'}.")
    for tag, entry in tagged_objects(seen):
        status = status_answer(entry)
        if entry.item.kind.moves:
            yield ask("perception", f"What is the observed status of object {tag}?", status)
            question, letter = multiple_choice(MOVING_STATUS.format(tag=tag), status, rng, pool=STATUSES)
            yield ask("perception", question, letter, 0)
        yield ask("perception", f"What is the visual description of {tag}?", f"{entry.name.capitalize()}.")
        yield ask("perception", f"What color is {tag}?", f"{entry.item.colour.capitalize()}.")
    for camera, direction in DIRECTIONS.items():
        here = [entry for entry in seen if entry.camera == camera]
        shown = {item.kind.name for item in objects_in_view(scene, camera)}
        yield from _direction_questions(here, shown, direction, rng)
    yield ask("perception", "What is the weather in the current scene?", f"It is {scene.weather}.")
    yield ask("perception", "Where does the road lead?", f"The road goes {_road(scene)}.")
    yield ask("perception", "Please describe the current scene.", _scene_answer(scene, seen))
    light = traffic_light(seen)
    answer = "No." if light is None else f"Yes, there is a {light.item.colour} traffic light."
    yield ask("perception", "Is there any traffic element in the front view?", answer)


def _direction_questions(
    here: list[SeenObject], shown: set[str], direction: str, rng: np.random.Generator
) -> Iterator[Question]:
    """`here` lies in that direction, `shown` is every class in its view: what a border cuts is never denied."""
    where = f"to the {direction} of the ego car"
    found = f"{there_is(counted(here))} {where}." if here else f"There are no objects {where}."
    yield ask("perception", f"What are objects {where}?", found)
    yield ask(
        "perception", f"How many objects are {where}?", f"{NUMBERS[len(here)].capitalize()}.".replace("No.", "None.")
    )
    present = sorted({entry.item.kind.name for entry in here})
    for name in [draw_kind(rng, exclude=shown), *present]:
        yield ask("perception", f"Are there {plural(name)} {where}?", yes_or_no(name in present))
    for name, group in _by_kind(here).items():
        if len(group) == 1:
            yield ask(
                "perception", f"What color is the {name} that is {where}?", f"{group[0].item.colour.capitalize()}."
            )
        if group[0].item.kind.moves:
            moving = any(entry.item.is_moving for entry in group)
            yield ask("perception", f"Are there moving {plural(name)} {where}?", yes_or_no(moving))
            if len(group) == 1:
                question = f"What is the status of the {name} that is {where}?"
                answer = f"The {name} {where} is {'moving' if moving else 'stopped'}."
                yield ask("perception", question, answer)


def _by_kind(entries: Sequence[SeenObject]) -> dict[str, list[SeenObject]]:
    kinds: dict[str, list[SeenObject]] = {}
    for entry in entries:
        kinds.setdefault(entry.item.kind.name, []).append(entry)
    return kinds


def _important_answer(seen: list[SeenObject]) -> str:
    tagged = tagged_objects(seen)
    if not tagged:
        return "There are no important objects."
    named = enumerated(
        [f"{with_article(entry.name)} to the {entry.direction} of the ego vehicle" for _, entry in tagged]
    )
    ids = enumerated([tag for tag, _ in tagged])
    ending = f"The ID of this object is {ids}." if len(tagged) == 1 else f"The IDs of these objects are {ids}."
    return f"There is {named}. {ending}"


def _road(scene: Scene) -> str:
    return "straight ahead" if scene.road == "straight" else f"to the {scene.road}"


def _scene_answer(scene: Scene, seen: list[SeenObject]) -> str:
    parts = []
    for direction in DIRECTIONS.values():
        here = [entry for entry in seen if entry.direction == direction]
        parts += [f"{counted(group)} to the {direction}" for group in _by_kind(here).values()]
    found = f" {there_is(enumerated(parts))}." if parts else " There are no objects."
    return f"It is {scene.weather} and the road goes {_road(scene)}.{found}"
