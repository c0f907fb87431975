"""What the synthetic world is made of: classes of objects with their sizes, objects in ego coordinates, scenes."""

from dataclasses import dataclass

import numpy as np

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

NEAR_DISTANCES = (7.0, 20.0)
"""Metres; every object in this range is an important one."""


@dataclass(frozen=True)
class ObjectClass:
    """Size in metres (length, width, height), bottom above the road, and what kind of thing it is.

    Attributes:
        body: height of a vehicle's body where a cabin stands on it.
    """

    name: str
    size: tuple[float, float, float]
    category: str
    bottom: float = 0.0
    body: float | None = None

    @property
    def body_height(self) -> float:
        """Metres from its bottom to the top of its body, the cabin left out."""
        return self.size[2] if self.body is None else self.body

    @property
    def is_vehicle(self) -> bool:
        """Whether its front, back and lamps tell which way it goes."""
        return self.category == "Vehicle"

    @property
    def moves(self) -> bool:
        """Whether it has a moving status."""
        return self.category in ("Vehicle", "Pedestrian", "Cyclist")


CLASSES = {
    item.name: item
    for item in (
        ObjectClass("car", (4.4, 1.9, 1.6), "Vehicle", body=0.95),
        ObjectClass("truck", (6.5, 2.5, 3.0), "Vehicle"),
        ObjectClass("bus", (9.0, 2.6, 3.2), "Vehicle"),
        ObjectClass("pedestrian", (0.8, 0.8, 1.8), "Pedestrian"),
        ObjectClass("cyclist", (1.8, 0.7, 1.8), "Cyclist"),
        ObjectClass("traffic cone", (0.7, 0.7, 1.0), "Road barrier"),
        ObjectClass("traffic light", (0.8, 0.8, 2.0), "Traffic element", bottom=2.4),
    )
}


@dataclass(frozen=True)
class WorldObject:
    """One object: position is the centre of its footprint in ego coordinates (metres), heading in radians."""

    kind: ObjectClass
    colour: str
    status: str
    position: tuple[float, float]
    heading: float

    @property
    def name(self) -> str:
        """Such as `red car`."""
        return f"{self.colour} {self.kind.name}"

    @property
    def is_turning(self) -> bool:
        """Whether it shows an amber lamp."""
        return self.status in ("Turn left", "Turn right")

    @property
    def distance(self) -> float:
        """Metres from the ego origin to the centre of its footprint."""
        return float(np.hypot(*self.position))

    @property
    def centre(self) -> np.ndarray:
        """Centre of the 3D box, ego coordinates [3]."""
        return np.array([*self.position, self.kind.bottom + self.kind.size[2] / 2])

    @property
    def is_moving(self) -> bool:
        """Whether it is on the move now."""
        return self.kind.moves and self.status != "Stopped"

    def corners(self, height: float | None = None) -> np.ndarray:
        """Box corners [8, 3] in ego coordinates: bottom four counter-clockwise from front left, then the top four.

        Args:
            height: of the box in metres; that of its class where None.
        """
        length, width, full_height = self.kind.size
        height = full_height if height is None else height
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
