"""Scenes of the synthetic world: a seed in, a road, weather and objects with positions and states out.

Everything that a question asks about is decided here and drawn by `render`: what cannot be seen is not asked.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from data_shards.schema import VIEW_SIZE
from data_shards.sources.synthetic.cameras import RIG

COLOURS = {
    "red": (205, 25, 25),
    "blue": (25, 70, 215),
    "white": (240, 240, 240),
    "black": (25, 25, 28),
    "yellow": (240, 210, 20),
    "green": (25, 150, 50),
}
WEATHERS = ("sunny", "cloudy", "rainy", "night")
ROAD_CURVATURE = {"straight": 0.0, "left": 0.022, "right": -0.022}  # 1/metres, ahead of the ego vehicle
STATUSES = ("Going ahead", "Stopped", "Turn left", "Turn right")

NEAR_DISTANCES = (7.0, 20.0)  # metres; every object in this range is an important one
FAR_DISTANCES = (32.0, 48.0)


@dataclass(frozen=True)
class ObjectClass:
    """Size in metres (length, width, height), bottom above the road, and what kind of thing it is."""

    name: str
    size: tuple[float, float, float]
    category: str
    bottom: float = 0.0

    @property
    def is_vehicle(self) -> bool:
        return self.category == "Vehicle"

    @property
    def moves(self) -> bool:
        return self.category in ("Vehicle", "Pedestrian", "Cyclist")


CLASSES = {
    item.name: item
    for item in (
        ObjectClass("car", (4.4, 1.9, 1.6), "Vehicle"),
        ObjectClass("truck", (6.5, 2.5, 3.0), "Vehicle"),
        ObjectClass("bus", (9.0, 2.6, 3.2), "Vehicle"),
        ObjectClass("pedestrian", (0.8, 0.8, 1.8), "Pedestrian"),
        ObjectClass("cyclist", (1.8, 0.7, 1.8), "Cyclist"),
        ObjectClass("traffic cone", (0.7, 0.7, 1.0), "Road barrier"),
        ObjectClass("traffic light", (0.8, 0.8, 2.0), "Traffic element", bottom=2.4),
    )
}
_CLASS_WEIGHTS = {"car": 0.3, "truck": 0.15, "bus": 0.13, "pedestrian": 0.17, "cyclist": 0.12, "traffic cone": 0.13}


@dataclass(frozen=True)
class WorldObject:
    """One object: position is the centre of its footprint in ego coordinates (metres), heading in radians."""

    kind: ObjectClass
    colour: str
    status: str
    position: tuple[float, float]
    heading: float

    @property
    def distance(self) -> float:
        return float(np.hypot(*self.position))

    @property
    def centre(self) -> np.ndarray:
        """Centre of the 3D box, ego coordinates [3]."""
        return np.array([*self.position, self.kind.bottom + self.kind.size[2] / 2])

    @property
    def is_moving(self) -> bool:
        return self.kind.moves and self.status != "Stopped"

    def corners(self) -> np.ndarray:
        """Box corners [8, 3] in ego coordinates: bottom four counter-clockwise from front left, then the top four."""
        length, width, height = self.kind.size
        footprint = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (length / 2, width / 2)
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        ground = footprint @ np.array([[cos, sin], [-sin, cos]]) + self.position
        bottom = np.full((4, 1), self.kind.bottom)
        return np.vstack([np.hstack([ground, bottom]), np.hstack([ground, bottom + height])])


@dataclass(frozen=True)
class Scene:
    """One moment of the world: where the road goes, the weather, and every object."""

    road: str
    weather: str
    objects: tuple[WorldObject, ...]


def road_offset(road: str, ahead: float) -> float:
    """Lateral position in metres (left positive) of the ego lane's centre `ahead` metres in front."""
    return ROAD_CURVATURE[road] * max(ahead, 0.0) ** 2 / 2


def main_camera(item: WorldObject) -> str | None:
    """The camera in which the object's centre lies nearest to the middle of the view, or None if none sees it."""
    offsets = {}
    for name, camera in RIG.items():
        pixel = camera.project_point(item.centre)
        if pixel is not None:
            offsets[name] = abs(pixel[0] - VIEW_SIZE[0] / 2)
    return min(offsets, key=lambda name: offsets[name]) if offsets else None


def draw_kind(rng: np.random.Generator, exclude: Collection[str] = ()) -> str:
    """A class name, by how common it is in the world."""
    weights = {name: weight for name, weight in _CLASS_WEIGHTS.items() if name not in exclude}
    total = sum(weights.values())
    return str(rng.choice(list(weights), p=[weight / total for weight in weights.values()]))


def make_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: two or three near objects (the important ones), at most one far object."""
    road = str(rng.choice(list(ROAD_CURVATURE)))
    objects: list[WorldObject] = []
    if rng.random() < 0.35:
        objects.append(_traffic_light(rng))
    num_near = int(rng.integers(2, 4))
    ranges = [NEAR_DISTANCES] * (num_near - len(objects)) + [FAR_DISTANCES] * int(rng.random() < 0.5)
    for distances in ranges:
        item = _draw_apart(rng, road, distances, objects)
        if item is not None:
            objects.append(item)
    return Scene(road=road, weather=str(rng.choice(WEATHERS)), objects=tuple(objects))


def advance(scene: Scene, seconds: float, rng: np.random.Generator) -> Scene:
    """The scene some seconds later: what moves has moved, and each object may have changed its status."""
    moved: list[WorldObject] = []
    for item in scene.objects:
        speed = 2.0 if item.is_moving else 0.0
        step = speed * seconds * np.array([np.cos(item.heading), np.sin(item.heading)])
        position = (float(item.position[0] + step[0]), float(item.position[1] + step[1]))
        status = _status(rng, item.kind) if rng.random() < 0.5 else item.status
        candidate = replace(item, position=position, status=status)
        keep = _is_near(candidate) == _is_near(item) and _is_apart(candidate, moved)
        moved.append(candidate if keep else replace(item, status=status))
    return replace(scene, objects=tuple(moved))


def _draw_apart(
    rng: np.random.Generator, road: str, distances: tuple[float, float], others: list[WorldObject]
) -> WorldObject | None:
    for _ in range(30):
        candidate = _draw_object(rng, road, distances)
        if main_camera(candidate) is not None and _is_apart(candidate, others):
            return candidate
    return None


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


def _is_apart(item: WorldObject, others: list[WorldObject]) -> bool:
    """No two objects within 14 degrees of each other as seen from the ego vehicle, so that none hides another."""
    bearing = np.arctan2(item.position[1], item.position[0])
    for other in others:
        gap = abs(bearing - np.arctan2(other.position[1], other.position[0]))
        if min(gap, 2 * np.pi - gap) < np.radians(14.0):
            return False
    return True
