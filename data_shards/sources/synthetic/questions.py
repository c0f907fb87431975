"""A scene in, its questions and answers in DriveLM's words out; every answer follows from what the views show."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from data_shards.schema import Question
from data_shards.sources.multiple_choice import multiple_choice
from data_shards.sources.synthetic.driver import (
    DIRECTIONS,
    Driving,
    SeenObject,
    important_objects,
    is_in_path,
    right_driving,
    seen_objects,
    traffic_light,
)
from data_shards.sources.synthetic.world import Scene, draw_kind

IMPORTANT_OBJECTS = (
    "What are the important objects in the current scene? "
    "Those objects will be considered for the future reasoning and driving decision."
)
NOTICE_OBJECTS = (
    "What object should the ego vehicle notice first when the ego vehicle is getting to the next possible location? "
    "What is the state of the object that is first noticed by the ego vehicle and what action should the ego vehicle "
    "take? What object should the ego vehicle notice second when the ego vehicle is getting to the next possible "
    "location? What is the state of the object perceived by the ego vehicle as second and what action should the ego "
    "vehicle take? What object should the ego vehicle notice third? What is the state of the object perceived by the "
    "ego vehicle as third and what action should the ego vehicle take?"
)
MOVING_STATUS = "What is the moving status of object {tag}?"
BEHAVIOUR = "Predict the behavior of the ego vehicle."

_NUMBERS = ("no", "one", "two", "three", "four", "five")
_STEERING = {"straight": "going straight", "left": "steering to the left", "right": "steering to the right"}
_SPEED = {"not moving": "not moving", "slowly": "driving slowly", "normal": "driving with normal speed"}
_STATE = {
    "Going ahead": "going ahead",
    "Stopped": "stopped",
    "Turn left": "turning left",
    "Turn right": "turning right",
}
_FUTURE = {
    "Going ahead": "Keep going straight.",
    "Stopped": "Stationary.",
    "Turn left": "Turn left.",
    "Turn right": "Turn right.",
}
_ACTION = {"not moving": "brake suddenly", "slowly": "slow down", "normal": "keep going at the same speed"}


def scene_questions(scene: Scene, rng: np.random.Generator) -> tuple[Question, ...]:
    """All questions of a scene, the selected test form among them with its tags.

    Args:
        scene: what is there.
        rng: chooses what is asked about, balances yes against no, and shuffles options.
    """
    seen = seen_objects(scene)
    driving = right_driving(scene, seen)
    return (
        *_perception(scene, seen, rng),
        *_prediction(scene, seen, rng),
        *_planning(scene, seen, driving),
        *_behaviour(driving, rng),
    )


def key_object_infos(seen: Sequence[SeenObject]) -> dict[str, dict[str, object]]:
    """DriveLM's `key_object_infos` of the important objects: tag to category, status, description and pixel box.

    Beside DriveLM's own fields `Distance`, metres from the ego vehicle.
    """
    return {
        entry.tag(number): {
            "Category": entry.item.kind.category,
            "Status": _status(entry).rstrip(".") if entry.item.kind.moves else None,
            "Visual_description": f"{entry.name.capitalize()}.",
            "2d_bbox": [round(float(value), 1) for value in entry.box],
            "Distance": round(entry.item.distance, 1),
        }
        for number, entry in enumerate(seen, 1)
    }


def _tagged(seen: Sequence[SeenObject]) -> list[tuple[str, SeenObject]]:
    return [(entry.tag(number), entry) for number, entry in enumerate(important_objects(list(seen)), 1)]


def _status(entry: SeenObject) -> str:
    return f"{entry.item.status}."


def _yes(truth: bool) -> str:
    return "Yes." if truth else "No."


def _enumerate(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, and c`."""
    if len(parts) < 3:
        return " and ".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _plural(name: str) -> str:
    return {"bus": "buses"}.get(name, f"{name}s")


def _counted(entries: Sequence[SeenObject]) -> str:
    counts = Counter(entry.item.kind.name for entry in entries)
    return _enumerate([f"{_NUMBERS[n]} {name if n == 1 else _plural(name)}" for name, n in counts.items()])


def _ask(kind: str, question: str, answer: str, *tags: int) -> Question:
    return Question(question=question, answer=answer, kind=kind, tags=tags)


def _perception(scene: Scene, seen: list[SeenObject], rng: np.random.Generator) -> Iterator[Question]:
    yield _ask("perception", IMPORTANT_OBJECTS, _important_answer(seen), 2)
    for camera in DIRECTIONS:
        shown = [f"a {entry.name} that is {_STATE[entry.item.status]}" for entry in seen if entry.camera == camera]
        yield _ask("perception", f"What does {camera} show?", f"It shows {_enumerate(shown) or 'no objects'}.")
    for tag, entry in _tagged(seen):
        status = _status(entry)
        if entry.item.kind.moves:
            yield _ask("perception", f"What is the observed status of object {tag}?", status)
            question, letter = multiple_choice(MOVING_STATUS.format(tag=tag), status, rng)
            yield _ask("perception", question, letter, 0)
        yield _ask("perception", f"What is the visual description of {tag}?", f"{entry.name.capitalize()}.")
        yield _ask("perception", f"What color is {tag}?", f"{entry.item.colour.capitalize()}.")
    for camera, direction in DIRECTIONS.items():
        yield from _direction_questions([entry for entry in seen if entry.camera == camera], direction, rng)
    yield _ask("perception", "What is the weather in the current scene?", f"It is {_weather(scene)}.")
    yield _ask("perception", "Where does the road lead?", f"The road goes {_road(scene)}.")
    yield _ask("perception", "Please describe the current scene.", _scene_answer(scene, seen))
    light = traffic_light(seen)
    answer = "No." if light is None else f"Yes, there is a {light.item.colour} traffic light."
    yield _ask("perception", "Is there any traffic element in the front view?", answer)


def _direction_questions(here: list[SeenObject], direction: str, rng: np.random.Generator) -> Iterator[Question]:
    where = f"to the {direction} of the ego car"
    verb = "is" if len(here) == 1 or (here and here[0].item.kind.name != here[-1].item.kind.name) else "are"
    found = f"There {verb} {_counted(here)} {where}." if here else f"There are no objects {where}."
    yield _ask("perception", f"What are objects {where}?", found)
    yield _ask(
        "perception", f"How many objects are {where}?", f"{_NUMBERS[len(here)].capitalize()}.".replace("No.", "None.")
    )
    present = sorted({entry.item.kind.name for entry in here})
    for name in [draw_kind(rng, exclude=present), *present]:
        yield _ask("perception", f"Are there {_plural(name)} {where}?", _yes(name in present))
    for name, group in _by_kind(here).items():
        if len(group) == 1:
            yield _ask(
                "perception", f"What color is the {name} that is {where}?", f"{group[0].item.colour.capitalize()}."
            )
        if group[0].item.kind.moves:
            moving = any(entry.item.is_moving for entry in group)
            yield _ask("perception", f"Are there moving {_plural(name)} {where}?", _yes(moving))
            if len(group) == 1:
                question = f"What is the status of the {name} that is {where}?"
                answer = f"The {name} {where} is {'moving' if moving else 'stopped'}."
                yield _ask("perception", question, answer)


def _by_kind(entries: Sequence[SeenObject]) -> dict[str, list[SeenObject]]:
    kinds: dict[str, list[SeenObject]] = {}
    for entry in entries:
        kinds.setdefault(entry.item.kind.name, []).append(entry)
    return kinds


def _important_answer(seen: list[SeenObject]) -> str:
    tagged = _tagged(seen)
    if not tagged:
        return "There are no important objects."
    named = _enumerate([f"a {entry.name} to the {entry.direction} of the ego vehicle" for _, entry in tagged])
    ids = _enumerate([tag for tag, _ in tagged])
    ending = f"The ID of this object is {ids}." if len(tagged) == 1 else f"The IDs of these objects are {ids}."
    return f"There is {named}. {ending}"


def _weather(scene: Scene) -> str:
    return scene.weather


def _road(scene: Scene) -> str:
    return "straight ahead" if scene.road == "straight" else f"to the {scene.road}"


def _scene_answer(scene: Scene, seen: list[SeenObject]) -> str:
    parts = [f"one {entry.item.kind.name} to the {entry.direction}" for entry in seen]
    found = f" There is {_enumerate(parts)}." if parts else " There are no objects."
    return f"It is {_weather(scene)} and the road goes {_road(scene)}.{found}"


def _prediction(scene: Scene, seen: list[SeenObject], rng: np.random.Generator) -> Iterator[Question]:
    tagged = _tagged(seen)
    if tagged:
        yield _ask("prediction", NOTICE_OBJECTS, _notice_answer(scene, tagged), 3)
    for tag, entry in tagged:
        is_sign = not entry.item.kind.moves
        if rng.random() < (0.4 if is_sign else 0.15):
            yield _ask("prediction", f"Is {tag} a traffic sign or a road barrier?", _yes(is_sign), 0)
        if entry.camera == "CAM_FRONT" and rng.random() < 0.5:
            question = f"Would {tag} be in the moving direction of the ego vehicle?"
            yield _ask("prediction", question, _yes(is_in_path(scene, entry)), 0)
        if entry.item.kind.moves:
            yield _ask("prediction", f"What is the future state of {tag}?", _FUTURE[entry.item.status])
    near = important_objects(seen)
    for camera, direction in DIRECTIONS.items():
        here = {entry.item.kind.name for entry in near if entry.camera == camera}
        elsewhere = {entry.item.kind.name for entry in near} - here
        yield from _affecting_questions(here, elsewhere, direction, rng)


def _affecting_questions(
    here: set[str], elsewhere: set[str], direction: str, rng: np.random.Generator
) -> Iterator[Question]:
    """As many right questions as wrong ones: another class here, or a class of the scene where it is not."""
    asked = [(name, "Yes.") for name in sorted(here)]
    asked += [(draw_kind(rng, exclude=here), "No.") for _ in here if rng.random() < 0.6]
    if not here and elsewhere and rng.random() < 0.3:
        asked.append((str(rng.choice(sorted(elsewhere))), "No."))
    if direction == "front" and "traffic light" not in here and rng.random() < 0.5:
        asked.append(("traffic light", "No."))
    for name, answer in asked:
        question = f"Will a {name} to the {direction} of the ego vehicle affect its driving?"
        yield _ask("prediction", question, answer, 0)


def _notice_answer(scene: Scene, tagged: list[tuple[str, SeenObject]]) -> str:
    parts = []
    for order, (tag, entry) in zip(("Firstly", "Secondly", "Thirdly", "Fourthly"), tagged, strict=False):
        state = entry.item.status.lower() if entry.item.kind.moves else f"a {entry.item.kind.name}"
        action = "slow down" if is_in_path(scene, entry) else "continue at the same speed"
        parts.append(f"{order}, notice {tag}. The object is {state}, so the ego vehicle should {action}.")
    return " ".join(parts)


def _planning(scene: Scene, seen: list[SeenObject], driving: Driving) -> Iterator[Question]:
    tagged = _tagged(seen)
    action = _ACTION[driving.speed]
    for tag, entry in tagged:
        ahead = is_in_path(scene, entry)
        question = f"Is {tag} an object that the ego vehicle should consider in the current scene?"
        yield _ask("planning", question, _yes(ahead or entry.item.kind.name == "traffic light"))
        after = "after the ego vehicle goes straight and keeps the same speed"
        question = f"What is the probability of colliding with {tag} {after}?"
        yield _ask("planning", question, "High." if ahead else "Low.")
    if tagged:
        tag, entry = tagged[0]
        question = (
            f"What actions could the ego vehicle take based on {tag}? Why take this action and what's the probability?"
        )
        chance = "high" if is_in_path(scene, entry) else "low"
        yield _ask("planning", question, f"The action is to {action}, the reason is {driving.reason}, {chance}.", 1)
        question = f"What actions taken by the ego vehicle can lead to a collision with {tag}?"
        yield _ask("planning", question, f"{_collision_action(entry)}.", 1)
    question = "In this scenario, what are safe actions to take for the ego vehicle?"
    yield _ask("planning", question, f"{action.capitalize()}.", 1)
    dangers = ["speeding up"] * (driving.speed != "normal") + ["turning around"]
    question = "In this scenario, what are dangerous actions to take for the ego vehicle?"
    yield _ask("planning", question, f"{_enumerate(dangers).capitalize()}.")
    yield _ask("planning", "What is the target action of the ego vehicle?", f"{_steering_verb(driving)}.")
    light = traffic_light(seen)
    signal = "None." if light is None else f"{light.item.colour.capitalize()} light."
    yield _ask("planning", "What is the traffic signal that the ego vehicle should pay attention to?", signal)


def _collision_action(entry: SeenObject) -> str:
    return {"front": "Accelerate and go straight", "back": "Back up"}.get(
        entry.direction, f"Turn {entry.direction.split()[-1]}"
    )


def _steering_verb(driving: Driving) -> str:
    return "Go straight" if driving.steering == "straight" else f"Turn {driving.steering}"


def _behaviour(driving: Driving, rng: np.random.Generator) -> Iterator[Question]:
    answer = f"The ego vehicle is {_STEERING[driving.steering]}. The ego vehicle is {_SPEED[driving.speed]}."
    yield _ask("behavior", BEHAVIOUR, answer)
    question, letter = multiple_choice(BEHAVIOUR, answer, rng)
    yield _ask("behavior", question, letter, 0)
