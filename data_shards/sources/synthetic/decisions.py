"""A scene in, the prediction, planning and behaviour questions out; all of them agree with `driver.right_driving`."""

from collections.abc import Iterator

import numpy as np

from data_shards.schema import Question
from data_shards.sources.multiple_choice import multiple_choice
from data_shards.sources.synthetic.driver import (
    DIRECTIONS,
    Driving,
    SeenObject,
    important_objects,
    is_in_path,
    objects_in_view,
    right_driving,
    traffic_light,
)
from data_shards.sources.synthetic.objects import Scene
from data_shards.sources.synthetic.wording import STATES, ask, enumerated, tagged_objects, yes_or_no
from data_shards.sources.synthetic.world import draw_kind

NOTICE_OBJECTS = (
    "What object should the ego vehicle notice first when the ego vehicle is getting to the next possible location? "
    "What is the state of the object that is first noticed by the ego vehicle and what action should the ego vehicle "
    "take? What object should the ego vehicle notice second when the ego vehicle is getting to the next possible "
    "location? What is the state of the object perceived by the ego vehicle as second and what action should the ego "
    "vehicle take? What object should the ego vehicle notice third? What is the state of the object perceived by the "
    "ego vehicle as third and what action should the ego vehicle take?"
)
BEHAVIOUR = "Predict the behavior of the ego vehicle."

_STEERING = {"straight": "going straight", "left": "steering to the left", "right": "steering to the right"}
_SPEED = {"not moving": "not moving", "slowly": "driving slowly", "normal": "driving with normal speed"}
_FUTURE = {
    "Going ahead": "Keep going straight.",
    "Stopped": "Stationary.",
    "Turn left": "Turn left.",
    "Turn right": "Turn right.",
}
_NOTICE_ACTION = {"not moving": "stop", "slowly": "slow down", "normal": "continue at the same speed"}
_ACTION = {"not moving": "brake suddenly", "slowly": "slow down", "normal": "keep going at the same speed"}


def prediction(scene: Scene, seen: list[SeenObject], rng: np.random.Generator) -> Iterator[Question]:
    """What to notice first, where objects will be, and which of them affect the driving."""
    tagged = tagged_objects(seen)
    if tagged:
        yield ask("prediction", NOTICE_OBJECTS, _notice_answer(tagged, right_driving(scene, seen)), 3)
    for tag, entry in tagged:
        is_sign = not entry.item.kind.moves
        if rng.random() < (0.4 if is_sign else 0.15):
            yield ask("prediction", f"Is {tag} a traffic sign or a road barrier?", yes_or_no(is_sign), 0)
        if entry.camera == "CAM_FRONT" and rng.random() < 0.5:
            question = f"Would {tag} be in the moving direction of the ego vehicle?"
            yield ask("prediction", question, yes_or_no(is_in_path(scene, entry)), 0)
        if entry.item.kind.moves:
            yield ask("prediction", f"What is the future state of {tag}?", _FUTURE[entry.item.status])
    near = important_objects(seen)
    for camera, direction in DIRECTIONS.items():
        here = {entry.item.kind.name for entry in near if entry.camera == camera}
        shown = {entry.item.kind.name for entry in near if entry.item in objects_in_view(scene, camera)}
        elsewhere = {entry.item.kind.name for entry in near} - shown
        yield from _affecting_questions(here, shown, elsewhere, direction, rng)


def _affecting_questions(
    here: set[str], shown: set[str], elsewhere: set[str], direction: str, rng: np.random.Generator
) -> Iterator[Question]:
    """As many right questions as wrong ones: another class here, or a class of the scene where it is not.

    Of a class that is shown at the border of the view and lies in the next direction nothing is asked.
    """
    asked = [(name, "Yes.") for name in sorted(here)]
    asked += [(draw_kind(rng, exclude=shown), "No.") for _ in here if rng.random() < 0.6]
    if not here and elsewhere and rng.random() < 0.3:
        asked.append((str(rng.choice(sorted(elsewhere))), "No."))
    if direction == "front" and "traffic light" not in shown and rng.random() < 0.5:
        asked.append(("traffic light", "No."))
    for name, answer in asked:
        question = f"Will a {name} to the {direction} of the ego vehicle affect its driving?"
        yield ask("prediction", question, answer, 0)


def _notice_answer(tagged: list[tuple[str, SeenObject]], driving: Driving) -> str:
    parts = []
    for order, (tag, entry) in zip(("Firstly", "Secondly", "Thirdly", "Fourthly"), tagged, strict=False):
        state = STATES[entry.item.status] if entry.item.kind.moves else f"a {entry.item.kind.name}"
        action = _NOTICE_ACTION[driving.speed]
        parts.append(f"{order}, notice {tag}. The object is {state}, so the ego vehicle should {action}.")
    return " ".join(parts)


def planning(scene: Scene, seen: list[SeenObject], driving: Driving) -> Iterator[Question]:
    """What to consider, risks of collision, safe, dangerous and target actions, and the traffic signal."""
    tagged = tagged_objects(seen)
    action = _ACTION[driving.speed]
    for tag, entry in tagged:
        ahead = is_in_path(scene, entry)
        question = f"Is {tag} an object that the ego vehicle should consider in the current scene?"
        yield ask("planning", question, yes_or_no(ahead or entry.item.kind.name == "traffic light"))
        after = "after the ego vehicle goes straight and keeps the same speed"
        question = f"What is the probability of colliding with {tag} {after}?"
        yield ask("planning", question, "High." if ahead else "Low.")
    if tagged:
        tag, entry = tagged[0]
        question = (
            f"What actions could the ego vehicle take based on {tag}? Why take this action and what's the probability?"
        )
        chance = "high" if is_in_path(scene, entry) else "low"
        yield ask(
            "planning",
            question,
            f"The action is to {action}, the reason is {driving.reason}, the probability is {chance}.",
            1,
        )
        question = f"What actions taken by the ego vehicle can lead to a collision with {tag}?"
        yield ask("planning", question, f"{_collision_action(entry)}.", 1)
    question = "In this scenario, what are safe actions to take for the ego vehicle?"
    yield ask("planning", question, f"{action.capitalize()}.", 1)
    dangers = ["speeding up"] * (driving.speed != "normal") + ["turning around"]
    question = "In this scenario, what are dangerous actions to take for the ego vehicle?"
    yield ask("planning", question, f"{enumerated(dangers).capitalize()}.")
    yield ask("planning", "What is the target action of the ego vehicle?", f"{_steering_verb(driving)}.")
    light = traffic_light(seen)
    signal = "None." if light is None else f"{light.item.colour.capitalize()} light."
    yield ask("planning", "What is the traffic signal that the ego vehicle should pay attention to?", signal)


def _collision_action(entry: SeenObject) -> str:
    return {"front": "Accelerate and go straight", "back": "Back up"}.get(
        entry.direction, f"Turn {entry.direction.split()[-1]}"
    )


def _steering_verb(driving: Driving) -> str:
    return "Go straight" if driving.road == "straight" else f"Turn {driving.road}"


def behaviour(driving: Driving, rng: np.random.Generator) -> Iterator[Question]:
    """What the ego vehicle does, asked openly and as a multiple choice."""
    answer = _behaviour_answer(driving.road, driving.speed)
    yield ask("behavior", BEHAVIOUR, answer)
    question, letter = multiple_choice(BEHAVIOUR, answer, rng, pool=_BEHAVIOURS)
    yield ask("behavior", question, letter, 0)


def _behaviour_answer(road: str, speed: str) -> str:
    """One of DriveLM's behaviours, in which a vehicle that does not move is going straight."""
    steering = _STEERING["straight" if speed == "not moving" else road]
    return f"The ego vehicle is {steering}. The ego vehicle is {_SPEED[speed]}."


_BEHAVIOURS = tuple(dict.fromkeys(_behaviour_answer(road, speed) for road in _STEERING for speed in _SPEED))
"""Every answer there can be, each of them also a wrong option of other scenes."""
