"""Scenes of the synthetic world: a seed in, a road, weather and objects with positions and states out.

Everything that a question asks about is decided here and drawn by `render`: what cannot be seen is not asked. An object
is either clearly in a view or not in it at all, clearly in the ego lane or beside it, no other hides it, and a turning
vehicle shows an amber lamp and which way it points.
"""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from data_shards.sources.synthetic.cameras import RIG, Camera
from data_shards.sources.synthetic.driver import is_doubtful
from data_shards.sources.synthetic.objects import (
    CLASSES,
    COLOURS,
    NEAR_DISTANCES,
    ROAD_CURVATURE,
    STATUSES,
    WEATHERS,
    ObjectClass,
    Scene,
    WorldObject,
    road_offset,
)
from data_shards.sources.synthetic.visibility import amber_area, end_area, hidden_share, main_camera, shown_share

FAR_DISTANCES = (32.0, 48.0)  # metres
_LEAST_SHOWN = 0.3  # share of an object that is in a view at all
_MOST_HIDDEN = 0.25  # share of an object behind another
_LEAST_AMBER = 150.0  # pixels of a turning vehicle's lamps
_LEAST_END = 150.0  # pixels of its front or back: from the side alone, left and right look the same
_LEAST_GAP = np.radians(14.0)  # between bearings
_TRIES = 100
_CLASS_WEIGHTS = {"car": 0.3, "truck": 0.15, "bus": 0.13, "pedestrian": 0.17, "cyclist": 0.12, "traffic cone": 0.13}


def draw_kind(rng: np.random.Generator, exclude: Collection[str] = ()) -> str:
    """A class name, by how common it is in the world."""
    weights = {name: weight for name, weight in _CLASS_WEIGHTS.items() if name not in exclude}
    total = sum(weights.values())
    return str(rng.choice(list(weights), p=[weight / total for weight in weights.values()]))


def make_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: two or three near objects (the important ones), at most one far object."""
    road = str(rng.choice(list(ROAD_CURVATURE)))
    objects: list[WorldObject] = []
    has_light, num_near = rng.random() < 0.35, int(rng.integers(2, 4))
    draws = [partial(_traffic_light, rng)] * has_light
    draws += [partial(_draw_object, rng, road, NEAR_DISTANCES)] * (num_near - has_light)
    draws += [partial(_draw_object, rng, road, FAR_DISTANCES)] * int(rng.random() < 0.5)
    for draw in draws:
        drawn = (draw() for _ in range(_TRIES))
        clear = (item for item in drawn if is_clear(item, objects) and not is_doubtful(road, item))
        objects.extend(itertools.islice(clear, 1))
    return Scene(road=road, weather=str(rng.choice(WEATHERS)), objects=tuple(objects))


def advance(scene: Scene, seconds: float, rng: np.random.Generator) -> Scene:
    """The scene some seconds later: what moves has moved, and each object may have changed its status.

    An object that would no longer be clearly visible stays where it is, or as it is.
    """
    objects = list(scene.objects)
    for i, item in enumerate(scene.objects):
        speed = 2.0 if item.is_moving else 0.0
        step = speed * seconds * np.array([np.cos(item.heading), np.sin(item.heading)])
        position = (float(item.position[0] + step[0]), float(item.position[1] + step[1]))
        status = _status(rng, item.kind) if rng.random() < 0.5 else item.status
        moved = replace(item, position=position, status=status)
        others = [*objects[:i], *objects[i + 1 :]]
        for candidate in (moved, replace(item, status=status)):
            is_certain = _is_near(candidate) == _is_near(item) and not is_doubtful(scene.road, candidate)
            if is_certain and is_clear(candidate, others):
                objects[i] = candidate
                break
    return replace(scene, objects=tuple(objects))


def is_clear(item: WorldObject, others: Sequence[WorldObject]) -> bool:
    """Whether a driver can tell all there is to tell of an object among others, and still of the others."""
    camera = main_camera(item)
    if camera is None or (item.is_turning and not _shows_turn(item, RIG[camera])):
        return False
    if not all(_are_apart(item, other) for other in others):
        return False
    if any(0.0 < shown_share(item, view) < _LEAST_SHOWN for view in RIG.values()):
        return False
    return not any(_hide(item, other) for other in others)


def _draw_object(rng: np.random.Generator, road: str, distances: tuple[float, float]) -> WorldObject:
    kind = CLASSES[draw_kind(rng)]
    camera = list(RIG.values())[int(rng.choice(6, p=[0.15, 0.3, 0.15, 0.12, 0.16, 0.12]))]
    spread = 34.0 if rng.random() < 0.1 else 24.0  # the wider draw puts objects on the border of two views
    bearing = np.radians(camera.yaw + rng.uniform(-spread, spread))
    distance = rng.uniform(max(distances[0], kind.size[0] + 3.0), distances[1])
    x, y = distance * np.cos(bearing), distance * np.sin(bearing)
    if camera.name == "CAM_FRONT" and rng.random() < 0.5:
        y = road_offset(road, x) + rng.uniform(-0.8, 0.8)
    along_road = rng.random() < 0.7
    heading = float(rng.choice([0.0, np.pi] if along_road else [np.pi / 2, -np.pi / 2]))
    return WorldObject(kind, _colour(rng, kind), _status(rng, kind), (float(x), float(y)), heading)


def _traffic_light(rng: np.random.Generator) -> WorldObject:
    position = (float(rng.uniform(13.0, 19.0)), float(rng.uniform(-6.0, 6.0)))
    colour = str(rng.choice(["red", "green", "yellow"]))
    return WorldObject(CLASSES["traffic light"], colour, "Stopped", position, np.pi)


def _colour(rng: np.random.Generator, kind: ObjectClass) -> str:
    return "orange" if kind.name == "traffic cone" else str(rng.choice(list(COLOURS)))


def _status(rng: np.random.Generator, kind: ObjectClass) -> str:
    if not kind.moves:
        return "Stopped"
    if kind.is_vehicle:
        return str(rng.choice(STATUSES, p=[0.28, 0.36, 0.18, 0.18]))
    return str(rng.choice(STATUSES[:2]))


def _is_near(item: WorldObject) -> bool:
    return NEAR_DISTANCES[0] <= item.distance <= NEAR_DISTANCES[1]


def _shows_turn(item: WorldObject, camera: Camera) -> bool:
    return amber_area(item, camera) >= _LEAST_AMBER and end_area(item, camera) >= _LEAST_END


def _are_apart(item: WorldObject, other: WorldObject) -> bool:
    bearings = [np.arctan2(one.position[1], one.position[0]) for one in (item, other)]
    gap = abs(bearings[0] - bearings[1])
    return min(gap, 2 * np.pi - gap) >= _LEAST_GAP


def _hide(item: WorldObject, other: WorldObject) -> bool:
    nearer, farther = sorted((item, other), key=lambda one: one.distance)
    return any(hidden_share(farther, nearer, view) > _MOST_HIDDEN for view in RIG.values())
