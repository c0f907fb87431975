"""What the cameras see of an object: its box in a view, how much of it, what hides it, and where its amber lamps are.

Boxes are (x1, y1, x2, y2) in pixels of the 1600x900 view.
"""

import numpy as np

from data_shards.schema import VIEW_SIZE
from data_shards.sources.synthetic.cameras import NEAR_PLANE, RIG, Camera
from data_shards.sources.synthetic.objects import WorldObject

Box = tuple[float, float, float, float]

FACES = {"front": (3, 0, 4, 7), "left": (0, 1, 5, 4), "back": (1, 2, 6, 5), "right": (2, 3, 7, 6)}
"""Vertical faces of `WorldObject.corners`, seen from outside: bottom left, bottom right, top right, top left."""


def main_camera(item: WorldObject) -> str | None:
    """The camera in which the object's centre lies nearest to the middle of the view, or None if none sees it."""
    offsets = {}
    for name, camera in RIG.items():
        pixel = camera.project_point(item.centre)
        if pixel is not None:
            offsets[name] = abs(pixel[0] - VIEW_SIZE[0] / 2)
    return min(offsets, key=lambda name: offsets[name]) if offsets else None


def whole_box(item: WorldObject, camera: Camera) -> Box | None:
    """Bounding box, also beyond the borders of the view; None where a part lies behind the camera."""
    corners = camera.to_camera(item.corners())
    if corners[:, 2].min() < NEAR_PLANE:
        return None
    pixels = camera.to_pixels(corners)
    return (*pixels.min(axis=0), *pixels.max(axis=0))


def object_box(item: WorldObject, camera: Camera) -> Box | None:
    """Bounding box clipped to the view; None where it is not visible."""
    box = whole_box(item, camera)
    return None if box is None else _clipped(box)


def shown_share(item: WorldObject, camera: Camera) -> float:
    """Share of the object's box that lies inside the view; what is behind the camera counts as outside."""
    corners = item.corners()
    in_front = camera.to_camera(corners)[:, 2] >= NEAR_PLANE
    if not in_front.any():
        return 0.0
    faces = [corners] if in_front.all() else [corners[list(indices)] for indices in FACES.values()]
    pixels = np.vstack([camera.project_polygon(face) for face in faces])
    box: Box = (*pixels.min(axis=0), *pixels.max(axis=0))
    clipped = _clipped(box)
    return 0.0 if clipped is None else _area(clipped) / _area(box)


def hidden_share(item: WorldObject, nearer: WorldObject, camera: Camera) -> float:
    """Share of the object's visible box that the box of a nearer object covers."""
    box, cover = object_box(item, camera), object_box(nearer, camera)
    if box is None or cover is None:
        return 0.0
    low, high = np.maximum(box[:2], cover[:2]), np.minimum(box[2:], cover[2:])
    return float(np.clip(high - low, 0.0, None).prod()) / _area(box)


def visible_faces(camera: Camera, corners: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Vertical faces [4, 3] of a box [8, 3] that are turned to the camera, by name."""
    visible = []
    for name, indices in FACES.items():
        face = corners[list(indices)]
        outward = face[:2].mean(axis=0) - corners[:4].mean(axis=0)
        if np.dot(np.array(camera.mount)[:2] - face[:2].mean(axis=0)[:2], outward[:2]) > 0:
            visible.append((name, face))
    return visible


def part_of_face(face: np.ndarray, left: float, right: float, low: float, high: float) -> np.ndarray:
    """A rectangle [4, 3] of a face [4, 3] in shares of its width and height."""
    across, up = face[1] - face[0], face[3] - face[0]
    return np.array(
        [face[0] + across * u + up * v for u, v in ((left, low), (right, low), (right, high), (left, high))]
    )


def amber_lamp(item: WorldObject, name: str, face: np.ndarray) -> np.ndarray | None:
    """The lamp [4, 3] of a turning vehicle on one of its faces; None on the far side, and where it does not turn.

    It runs all along the side it turns to, and is at that side's edge in front and at the back.
    """
    turns_left = item.status == "Turn left"
    if not item.is_turning:
        return None
    if name == ("left" if turns_left else "right"):
        return part_of_face(face, 0.0, 1.0, 0.1, 0.42)
    if name in ("front", "back"):
        edge = (0.0, 0.33) if turns_left == (name == "back") else (0.67, 1.0)
        return part_of_face(face, *edge, 0.1, 0.65)
    return None


def amber_area(item: WorldObject, camera: Camera) -> float:
    """Pixels of the 1600x900 view that a turning vehicle's lamps take in it."""
    lamps = [amber_lamp(item, name, face) for name, face in visible_faces(camera, item.corners(item.kind.body_height))]
    areas = []
    for lamp in lamps:
        if lamp is not None and camera.project_point(lamp.mean(axis=0)) is not None:
            areas.append(_polygon_area(camera.project_polygon(lamp)))
    return sum(areas)


def end_area(item: WorldObject, camera: Camera) -> float:
    """Pixels of the 1600x900 view that a vehicle's front or back takes in it: they tell which way it points."""
    faces = dict(visible_faces(camera, item.corners(item.kind.body_height)))
    ends = [faces[name] for name in ("front", "back") if name in faces]
    return sum(_polygon_area(camera.project_polygon(end)) for end in ends)


def _clipped(box: Box) -> Box | None:
    low, high = np.clip(box[:2], 0, VIEW_SIZE), np.clip(box[2:], 0, VIEW_SIZE)
    return (low[0], low[1], high[0], high[1]) if (high - low > 2).all() else None


def _area(box: Box) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _polygon_area(points: np.ndarray) -> float:
    """Shoelace formula over pixels [N, 2]."""
    if len(points) < 3:
        return 0.0
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
