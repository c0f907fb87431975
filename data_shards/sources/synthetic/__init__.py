"""Seeds in, key frames of a synthetic driving world out: six rendered views and questions in DriveLM's words."""

import hashlib
from collections.abc import Iterator

import numpy as np

from data_shards.schema import CAMERAS, RawFrame
from data_shards.sources.synthetic.cities import DEFAULT_CITY
from data_shards.sources.synthetic.driver import important_objects, seen_objects
from data_shards.sources.synthetic.general import draw_picture, make_picture, picture_questions
from data_shards.sources.synthetic.objects import Scene
from data_shards.sources.synthetic.positions import position_infos, position_questions
from data_shards.sources.synthetic.questions import key_object_infos, scene_questions
from data_shards.sources.synthetic.render import render_scene
from data_shards.sources.synthetic.world import advance, make_scene

_SECONDS_BETWEEN_FRAMES = 0.8


def scene_frames(seed: int, scene: int, frames_per_scene: int) -> Iterator[tuple[Scene, np.random.Generator]]:
    """The key frames of one scene, each with the generator that draws its clutter and chooses its questions."""
    rng = np.random.default_rng([seed, scene])
    moment = make_scene(rng)
    for _ in range(frames_per_scene):
        yield moment, rng
        moment = advance(moment, _SECONDS_BETWEEN_FRAMES, rng)


def driving_frames(
    *, seed: int, scenes: range, frames_per_scene: int, image_width: int, city: str = DEFAULT_CITY
) -> Iterator[RawFrame]:
    """Key frames of the driving world.

    Args:
        seed: world seed; the same seed gives the same world.
        scenes: scene numbers; each is independent of all others.
        frames_per_scene: key frames of each scene.
        image_width: width of a view in pixels, 16:9; coordinates refer to 1600x900 whatever it is.
        city: one of `cities.CITIES`; the scenes are the same in each, drawn in other colours.
    """
    for number in scenes:
        scene_id = _identifier("scene", seed, number)
        for i, (scene, rng) in enumerate(scene_frames(seed, number, frames_per_scene)):
            frame_id = _identifier("frame", seed, number, i)
            yield RawFrame(
                key=f"{scene_id}_{frame_id}",
                scene=scene_id,
                frame=frame_id,
                source="synthetic",
                images=render_scene(scene, rng, width=image_width, city=city),
                questions=scene_questions(scene, rng),
                objects=key_object_infos(important_objects(seen_objects(scene))),
            )


def position_frames(
    *, seed: int, scenes: range, frames_per_scene: int, image_width: int, city: str = DEFAULT_CITY
) -> Iterator[RawFrame]:
    """Of each key frame one view that shows something, and where that is; arguments as for `driving_frames`."""
    for number in scenes:
        scene_id = _identifier("scene", seed, number)
        for i, (scene, rng) in enumerate(scene_frames(seed, number, frames_per_scene)):
            frame_id = _identifier("view", seed, number, i)
            seen = seen_objects(scene)
            asked = {camera: position_questions(scene, seen, camera) for camera in CAMERAS}
            camera = str(rng.choice([camera for camera, questions in asked.items() for _ in questions]))
            yield RawFrame(
                key=f"{scene_id}_{frame_id}",
                scene=scene_id,
                frame=frame_id,
                source="synthetic",
                images=render_scene(scene, rng, width=image_width, city=city, cameras=[camera]),
                questions=asked[camera],
                objects=position_infos([entry for entry in seen if entry.camera == camera]),
            )


def general_frames(*, seed: int, scenes: range, frames_per_scene: int, image_width: int) -> Iterator[RawFrame]:
    """Samples of the general family, one image each; arguments as for `driving_frames`."""
    for number in scenes:
        scene_id = _identifier("general", seed, number)
        rng = np.random.default_rng([seed, number])
        for i in range(frames_per_scene):
            frame_id = _identifier("image", seed, number, i)
            picture = make_picture(rng)
            yield RawFrame(
                key=f"{scene_id}_{frame_id}",
                scene=scene_id,
                frame=frame_id,
                source="synthetic-general",
                images={"IMAGE_0": draw_picture(picture, image_width)},
                questions=picture_questions(picture, rng),
            )


def _identifier(kind: str, *numbers: int) -> str:
    """32 hexadecimal digits, as nuScenes names its scenes and frames."""
    return hashlib.sha256(f"{kind}:{numbers}".encode()).hexdigest()[:32]
