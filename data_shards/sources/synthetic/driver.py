"""What a careful driver sees and does in a scene: the important objects, what is in the way, how to behave.

Scene in, plain facts out; `questions` puts them into DriveLM's words.
"""

from dataclasses import dataclass

from data_shards.sources.synthetic.cameras import RIG
from data_shards.sources.synthetic.objects import NEAR_DISTANCES, Scene, WorldObject, road_offset
from data_shards.sources.synthetic.visibility import main_camera, object_box

DIRECTIONS = {
    "CAM_FRONT": "front",
    "CAM_FRONT_LEFT": "front left",
    "CAM_FRONT_RIGHT": "front right",
    "CAM_BACK": "back",
    "CAM_BACK_LEFT": "back left",
    "CAM_BACK_RIGHT": "back right",
}
"""Camera to DriveLM's word for its direction, in the order in which important objects are listed."""

_STOPPING_DISTANCE = 13.0  # metres
_LANE_HALF_WIDTH = 2.0  # metres
_STOPPING_MARGIN = 0.5  # metres around the stopping distance in which a view does not tell whether to stop
_LANE_MARGIN = 0.3  # metres around the edge of the lane in which it does not tell what is in the path


@dataclass(frozen=True)
class SeenObject:
    """A visible object: its main camera, its centre there in pixels of the 1600x900 view, its box."""

    item: WorldObject
    camera: str
    centre: tuple[float, float]
    box: tuple[float, float, float, float]

    @property
    def direction(self) -> str:
        """DriveLM's word for where it is."""
        return DIRECTIONS[self.camera]

    @property
    def name(self) -> str:
        """Such as `red car`."""
        return self.item.name

    def tag(self, number: int) -> str:
        """DriveLM's object tag, `<c1,CAM_FRONT,836.3,398.3>`."""
        return f"<c{number},{self.camera},{self.centre[0]:.1f},{self.centre[1]:.1f}>"


def seen_objects(scene: Scene) -> list[SeenObject]:
    """Every visible object, by camera in the order of `DIRECTIONS`, then from left to right."""
    seen = []
    for item in scene.objects:
        camera = main_camera(item)
        if camera is None:
            continue
        centre, box = RIG[camera].project_point(item.centre), object_box(item, RIG[camera])
        if centre is not None and box is not None:
            seen.append(SeenObject(item, camera, centre, box))
    order = list(DIRECTIONS)
    return sorted(seen, key=lambda entry: (order.index(entry.camera), entry.centre[0]))


def objects_in_view(scene: Scene, camera: str) -> list[WorldObject]:
    """Every object that a view shows, from left to right; one at a border is in two views."""
    boxes = [(object_box(item, RIG[camera]), item) for item in scene.objects]
    shown = [(box[0] + box[2], item) for box, item in boxes if box is not None]
    return [item for _, item in sorted(shown, key=lambda pair: pair[0])]


def important_objects(seen: list[SeenObject]) -> list[SeenObject]:
    """Those near enough to matter for driving."""
    return [entry for entry in seen if entry.item.distance <= NEAR_DISTANCES[1] + 0.5]


def is_in_path(scene: Scene, entry: SeenObject) -> bool:
    """Whether the object stands on or just beside the ego lane ahead."""
    x, y = entry.item.position
    on_road = entry.item.kind.name != "traffic light"
    return on_road and entry.camera == "CAM_FRONT" and abs(y - road_offset(scene.road, x)) < _LANE_HALF_WIDTH


def is_doubtful(road: str, item: WorldObject) -> bool:
    """Whether an object ahead is so near a border between two answers that no driver could tell them apart."""
    x, y = item.position
    aside = abs(y - road_offset(road, x))
    at_edge = abs(aside - _LANE_HALF_WIDTH) < _LANE_MARGIN
    at_stop = aside < _LANE_HALF_WIDTH and abs(item.distance - _STOPPING_DISTANCE) < _STOPPING_MARGIN
    return x > 0 and item.kind.name != "traffic light" and (at_edge or at_stop)


def traffic_light(seen: list[SeenObject]) -> SeenObject | None:
    """The first traffic light among the objects seen, if there is any."""
    return next((entry for entry in seen if entry.item.kind.name == "traffic light"), None)


@dataclass(frozen=True)
class Driving:
    """Right behaviour in a scene: `speed` is `not moving`, `slowly` or `normal`; `road` is where the road goes."""

    road: str
    speed: str
    reason: str


def right_driving(scene: Scene, seen: list[SeenObject]) -> Driving:
    """Stop for a red light or something close in the path; slow for a yellow light, a far one, rain and night."""
    leads = [entry.item.distance for entry in important_objects(seen) if is_in_path(scene, entry)]
    light = traffic_light(seen)
    if light is not None and light.item.colour == "red":
        return Driving(scene.road, "not moving", "to follow the traffic rules")
    if leads and min(leads) < _STOPPING_DISTANCE:
        return Driving(scene.road, "not moving", "to avoid a collision")
    if leads:
        return Driving(scene.road, "slowly", "to keep a safe distance")
    if light is not None and light.item.colour == "yellow":
        return Driving(scene.road, "slowly", "to follow the traffic rules")
    if scene.weather in ("rainy", "night"):
        return Driving(scene.road, "slowly", "that it is hard to see")
    return Driving(scene.road, "normal", "that the road is clear")
