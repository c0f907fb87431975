"""A scene in, six JPEG views out: flat-shaded polygons through the camera geometry, every state drawn as a visible cue.

Cues: motion lines beside what moves, red lamps around a stopped vehicle, amber lamps on the side it turns to,
legs apart on a walking pedestrian, rain streaks, a dark sky at night.
"""

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from data_shards.schema import CAMERAS, VIEW_SIZE
from data_shards.sources.synthetic.cameras import RIG, Camera
from data_shards.sources.synthetic.cities import CITIES, DEFAULT_CITY, City, Colour
from data_shards.sources.synthetic.objects import COLOURS, Scene, WorldObject, road_offset
from data_shards.sources.synthetic.visibility import amber_lamp, object_box, part_of_face, visible_faces, whole_box

_ORANGE: Colour = (250, 120, 10)
_BAND: Colour = (225, 225, 215)
_AMBER: Colour = (255, 170, 0)
_BRAKE: Colour = (255, 0, 60)
_GLASS: Colour = (70, 90, 110)
_TYRE: Colour = (15, 15, 15)
_SKIN: Colour = (225, 180, 150)


class _Canvas:
    """A drawing surface whose coordinates are those of the 1600x900 view, whatever its size in pixels."""

    def __init__(self, camera: Camera, width: int, light: float) -> None:
        self.camera = camera
        self.scale = width / VIEW_SIZE[0]
        self.light = light
        self.image = Image.new("RGB", (width, round(VIEW_SIZE[1] * self.scale)))
        self.draw = ImageDraw.Draw(self.image)

    def polygon(self, points: np.ndarray, colour: Colour, *, glows: bool = False) -> None:
        """Fill a polygon of pixels [N, 2]; what glows is not dimmed at night."""
        if len(points) >= 3:
            self.draw.polygon([tuple(p) for p in points * self.scale], fill=self.shade(colour, 1.0 if glows else None))

    def solid(self, points: np.ndarray, colour: Colour, *, glows: bool = False) -> None:
        """Fill a polygon given in ego coordinates [N, 3]."""
        self.polygon(self.camera.project_polygon(points), colour, glows=glows)

    def ellipse(self, centre: np.ndarray, radius: tuple[float, float], colour: Colour, *, glows: bool = False) -> None:
        low, high = (centre - radius) * self.scale, (centre + radius) * self.scale
        self.draw.ellipse([*low, *high], fill=self.shade(colour, 1.0 if glows else None))

    def line(self, start: np.ndarray, end: np.ndarray, width: float, colour: Colour, *, glows: bool = False) -> None:
        points = [tuple(start * self.scale), tuple(end * self.scale)]
        self.draw.line(points, fill=self.shade(colour, 1.0 if glows else None), width=max(1, round(width * self.scale)))

    def shade(self, colour: Colour, light: float | None = None) -> Colour:
        factor = self.light if light is None else light
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))


def render_scene(
    scene: Scene,
    rng: np.random.Generator,
    *,
    width: int = 1600,
    quality: int = 88,
    city: str = DEFAULT_CITY,
    cameras: Sequence[str] = CAMERAS,
) -> dict[str, bytes]:
    """Draw the views.

    Args:
        scene: what to draw.
        rng: for clutter such as rain streaks and trees.
        width: width of each image in pixels; the height follows at 16:9.
        quality: JPEG quality.
        city: one of `CITIES`, in whose colours it is drawn.
        cameras: which of `CAMERAS`.

    Returns:
        Camera name to JPEG bytes, in the order of `cameras`.
    """
    views = {name: _render_view(scene, RIG[name], rng, width, CITIES[city]) for name in cameras}
    return {name: _encode(view, quality) for name, view in views.items()}


def _encode(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def _render_view(scene: Scene, camera: Camera, rng: np.random.Generator, width: int, city: City) -> Image.Image:
    canvas = _Canvas(camera, width, light=0.65 if scene.weather == "night" else 1.0)
    _draw_background(canvas, scene, rng, city)
    for item in sorted(scene.objects, key=lambda item: -item.distance):
        if object_box(item, camera) is not None:
            _draw_object(canvas, item, np.array(whole_box(item, camera)))
    if scene.weather == "rainy":
        _draw_rain(canvas, rng)
    return canvas.image


def _draw_background(canvas: _Canvas, scene: Scene, rng: np.random.Generator, city: City) -> None:
    width, height = VIEW_SIZE
    horizon = height / 2
    canvas.polygon(np.array([[0, 0], [width, 0], [width, horizon], [0, horizon]]), city.sky[scene.weather], glows=True)
    canvas.polygon(np.array([[0, horizon], [width, horizon], [width, height], [0, height]]), city.ground)
    for centre in rng.uniform(0, width, size=3):
        middle, half = horizon - rng.uniform(5, 25), (rng.uniform(20, 60), rng.uniform(15, 35))
        if city.skyline == "trees":
            canvas.ellipse(np.array([centre, middle]), half, city.scenery)
        else:
            left, right, top = centre - 2 * half[0], centre + 2 * half[0], middle - 3 * half[1]
            canvas.polygon(np.array([[left, top], [right, top], [right, horizon], [left, horizon]]), city.scenery)
    strips, are_paint = _road_strips(scene.road)
    for pixels, is_paint in zip(canvas.camera.project_polygons(strips), are_paint, strict=True):
        canvas.polygon(pixels, city.paint if is_paint else city.asphalt)


@cache
def _road_strips(road: str) -> tuple[np.ndarray, list[bool]]:
    """Asphalt and lane marks as quads [N, 4, 3] in ego coordinates, and which are marks, in drawing order."""
    stations = np.linspace(-60.0, 70.0, 53)
    offsets = np.array([road_offset(road, float(s)) for s in stations])
    strips, are_paint = [], []
    for i in range(len(stations) - 1):
        marks = [(-5.3, -5.05), (5.1, 5.35)] + [(-1.9, -1.65), (1.7, 1.95)] * (i % 2 == 0)
        for right, left in ((-5.5, 5.5), *marks):
            corners = ((0, right), (1, right), (1, left), (0, left))
            strips.append([[stations[i + k], offsets[i + k] + side, 0.0] for k, side in corners])
            are_paint.append((right, left) in marks)
    return np.array(strips), are_paint


def _draw_object(canvas: _Canvas, item: WorldObject, box: np.ndarray) -> None:
    painters = {
        "pedestrian": _draw_pedestrian,
        "cyclist": _draw_cyclist,
        "traffic cone": _draw_cone,
        "traffic light": _draw_light,
    }
    painters.get(item.kind.name, _draw_vehicle)(canvas, item, box)
    if item.is_moving and item.status == "Going ahead":
        _draw_motion_lines(canvas, box)


def _draw_vehicle(canvas: _Canvas, item: WorldObject, box: np.ndarray) -> None:
    corners = item.corners(item.kind.body_height)
    body = COLOURS[item.colour]
    if item.kind.body is not None:
        _draw_cabin(canvas, item, corners)
    canvas.solid(corners[4:], tuple(min(255, c + 25) for c in body))  # type: ignore[arg-type]
    for name, face in visible_faces(canvas.camera, corners):
        canvas.solid(face, tuple(int(c * (0.9 if name in ("front", "back") else 0.75)) for c in body))  # type: ignore[arg-type]
        _draw_face_details(canvas, item, name, face)


def _draw_cabin(canvas: _Canvas, item: WorldObject, corners: np.ndarray) -> None:
    centre = corners[4:].mean(axis=0)
    base = centre + (corners[4:] - centre) * (0.62, 0.85, 1.0)
    cabin = np.vstack([base, base + (0, 0, 0.65)])
    canvas.solid(cabin[4:], COLOURS[item.colour])
    for _, face in visible_faces(canvas.camera, cabin):
        canvas.solid(face, _GLASS)


def _draw_face_details(canvas: _Canvas, item: WorldObject, name: str, face: np.ndarray) -> None:
    on_side = name in ("left", "right")
    if item.kind.name == "bus":
        for start in np.arange(0.04, 0.95, 0.16 if on_side else 0.48):
            canvas.solid(part_of_face(face, start, start + (0.12 if on_side else 0.44), 0.5, 0.85), _GLASS)
    if item.kind.name == "truck" and on_side:
        cargo = (0.0, 0.68) if name == "right" else (0.32, 1.0)
        canvas.solid(part_of_face(face, *cargo, 0.3, 1.0), (215, 215, 215))
    if item.kind.name == "truck" and name == "front":
        canvas.solid(part_of_face(face, 0.1, 0.9, 0.5, 0.8), _GLASS)
    if item.kind.name == "truck" and name == "back":
        canvas.solid(part_of_face(face, 0.08, 0.92, 0.3, 0.95), (215, 215, 215))
    for start in (0.12, 0.72) if on_side else ():
        canvas.solid(part_of_face(face, start, start + 0.16, -0.05, 0.22), _TYRE)
    if name == "front":
        for start in (0.05, 0.75):
            canvas.solid(part_of_face(face, start, start + 0.2, 0.28, 0.4), (255, 250, 200), glows=True)
    if item.status == "Stopped":
        canvas.solid(part_of_face(face, 0.0, 1.0, 0.08, 0.28), _BRAKE, glows=True)
    lamp = amber_lamp(item, name, face)
    if lamp is not None:
        canvas.solid(lamp, _AMBER, glows=True)


def _draw_motion_lines(canvas: _Canvas, box: np.ndarray) -> None:
    width, height = box[2] - box[0], box[3] - box[1]
    reach = 0.25 * min(width, height) + 20
    for share in (0.25, 0.5, 0.75):
        level = box[1] + share * height
        for side, sign in ((box[0] - 8, -1), (box[2] + 8, 1)):
            start = np.array([side, level])
            canvas.line(start, start + (sign * reach, 0), max(6.0, 0.05 * height), (255, 255, 255), glows=True)


def _draw_pedestrian(canvas: _Canvas, item: WorldObject, box: np.ndarray) -> None:
    middle, height = (box[0] + box[2]) / 2, box[3] - box[1]
    spread = 0.2 if item.is_moving else 0.05
    hip = np.array([middle, box[3] - 0.45 * height])
    for sign in (-1, 1):
        canvas.line(hip, np.array([middle + sign * spread * height, box[3]]), 0.1 * height, (40, 40, 70))
    torso = np.array([[-0.13, -0.85], [0.13, -0.85], [0.11, -0.4], [-0.11, -0.4]]) * height
    canvas.polygon(torso + (middle, box[3]), COLOURS[item.colour])
    canvas.ellipse(np.array([middle, box[1] + 0.08 * height]), (0.08 * height, 0.08 * height), _SKIN)


def _draw_cyclist(canvas: _Canvas, item: WorldObject, box: np.ndarray) -> None:
    middle, height = (box[0] + box[2]) / 2, box[3] - box[1]
    for sign in (-1, 1):
        wheel = np.array([middle + sign * 0.27 * height, box[3] - 0.18 * height])
        canvas.ellipse(wheel, (0.19 * height, 0.19 * height), _TYRE)
        canvas.ellipse(wheel, (0.12 * height, 0.12 * height), (150, 150, 150))
    saddle = np.array([middle - 0.1 * height, box[3] - 0.42 * height])
    canvas.line(saddle, np.array([middle + 0.27 * height, box[3] - 0.2 * height]), 0.06 * height, (60, 60, 60))
    torso = np.array([[-0.18, -0.42], [0.02, -0.42], [0.16, -0.82], [-0.02, -0.86]]) * height
    canvas.polygon(torso + (middle, box[3]), COLOURS[item.colour])
    canvas.ellipse(np.array([middle + 0.1 * height, box[1] + 0.08 * height]), (0.08 * height, 0.08 * height), _SKIN)


def _draw_cone(canvas: _Canvas, item: WorldObject, box: np.ndarray) -> None:
    middle = (box[0] + box[2]) / 2
    canvas.polygon(np.array([[box[0], box[3]], [box[2], box[3]], [middle, box[1]]]), _ORANGE)
    low, high = box[3] - 0.3 * (box[3] - box[1]), box[3] - 0.5 * (box[3] - box[1])
    half = 0.3 * (box[2] - box[0])
    canvas.polygon(
        np.array([[middle - half, low], [middle + half, low], [middle + half, high], [middle - half, high]]), _BAND
    )


def _draw_light(canvas: _Canvas, item: WorldObject, box: np.ndarray) -> None:
    middle, height = (box[0] + box[2]) / 2, box[3] - box[1]
    foot = canvas.camera.project_polygon(np.array([[*item.position, 0.0]] * 3))
    canvas.line(
        np.array([middle, box[3]]), np.array([middle, foot[0, 1] if len(foot) else box[3]]), 0.08 * height, (60, 60, 60)
    )
    canvas.polygon(
        np.array([[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]]), (20, 20, 20), glows=True
    )
    level = {"red": 0.2, "yellow": 0.5, "green": 0.8}[item.colour]
    lamp = {"red": (255, 30, 30), "yellow": (255, 210, 0), "green": (30, 240, 90)}[item.colour]
    canvas.ellipse(np.array([middle, box[1] + level * height]), (0.17 * height, 0.17 * height), lamp, glows=True)


def _draw_rain(canvas: _Canvas, rng: np.random.Generator) -> None:
    starts = rng.uniform((0, 0), VIEW_SIZE, size=(60, 2))
    for start in starts:
        canvas.line(start, start + (-12, 55), 4.0, (190, 200, 215))
