"""DriveLM's annotation file in, key frames with their questions and image paths out; no image is read."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_shards.schema import CAMERAS, Question
from data_shards.sources.drivelm_select import KINDS

_SHOWN = 5


class SourceError(ValueError):
    """Annotations or images that cannot become frames; the message names file, field, got, expected and fix."""


@dataclass(frozen=True, kw_only=True)
class KeyFrame:
    """One annotated frame whose images are still on disk.

    Attributes:
        scene, frame: DriveLM's identifiers.
        questions: kind by kind; tagged where the annotations are in test form.
        objects: `key_object_infos`; empty in the published test form.
        image_paths: camera to file, in `CAMERAS` order.
    """

    scene: str
    frame: str
    questions: tuple[Question, ...]
    objects: Mapping[str, Mapping[str, Any]]
    image_paths: Mapping[str, Path]


def load_key_frames(annotations: Path, image_root: Path, *, scenes: Collection[str] | None = None) -> list[KeyFrame]:
    """Parse the annotations; looks at no image.

    Raises:
        SourceError: as `drivelm_frames`.
    """
    if not image_root.is_dir():
        raise SourceError(
            f"{image_root}: field '--images': got a path that is no folder, expected the folder that holds nuScenes' "
            "'samples'; correct the path"
        )
    try:
        record = json.loads(annotations.read_bytes())
    except OSError as error:
        raise SourceError(
            f"{annotations}: field '--annotations': got a file that does not open ({error.strerror}), expected "
            "DriveLM's JSON; correct the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{annotations}: got text that is no JSON ({error}), expected DriveLM's JSON") from error
    known = _object(record, annotations.name)
    unknown = sorted(set(scenes or ()) - set(known))
    if unknown:
        raise SourceError(
            f"{annotations}: field '--scenes': got {unknown[0]!r}, expected one of the {len(known)} annotated scenes, "
            f"such as {', '.join(list(known)[:_SHOWN])}"
        )
    return [
        _key_frame(annotations.name, scene, frame, frame_record, image_root)
        for scene, scene_record in known.items()
        if not scenes or scene in scenes
        for frame, frame_record in _object(
            _field(scene_record, "key_frames", f"{annotations.name}: {scene}"), scene
        ).items()
    ]


def drop_missing(key_frames: Sequence[KeyFrame], image_root: Path, *, skip_missing: bool) -> tuple[list[KeyFrame], int]:
    """The frames whose images are all there, and the number of the others.

    Raises:
        SourceError: images are missing and `skip_missing` is False, or no frame is left.
    """
    missing = {
        (key_frame.scene, key_frame.frame): [path for path in key_frame.image_paths.values() if not path.is_file()]
        for key_frame in key_frames
    }
    whole = [key_frame for key_frame in key_frames if not missing[key_frame.scene, key_frame.frame]]
    paths = [path for group in missing.values() for path in group]
    dropped = len(key_frames) - len(whole)
    if dropped and not (skip_missing and whole):
        listed = "".join(f"\n  {path.relative_to(image_root)}" for path in paths[:_SHOWN])
        fix = (
            "correct --images: it holds no frame's six images"
            if not whole
            else "add the images, or leave these frames out with --skip-missing"
        )
        raise SourceError(
            f"{image_root}: got {len(paths)} missing images in {dropped} of {len(key_frames)} frames, expected all; "
            f"{fix}; the first are:{listed}"
        )
    return whole, dropped


def _key_frame(file: str, scene: str, frame: str, record: Any, image_root: Path) -> KeyFrame:
    where = f"{file}: {scene}: {frame}"
    questions = _object(_field(record, "QA", where), f"{where}: QA")
    paths = _object(_field(record, "image_paths", where), f"{where}: image_paths")
    objects = _object(record.get("key_object_infos", {}), f"{where}: key_object_infos")
    return KeyFrame(
        scene=scene,
        frame=frame,
        questions=tuple(
            _question(item, kind, f"{where}: {kind} question {i}")
            for kind in KINDS
            for i, item in enumerate(_list(questions, kind, f"{where}: QA"))
        ),
        objects={tag: _object(info, f"{where}: key_object_infos: {tag}") for tag, info in objects.items()},
        image_paths={camera: image_root / _relative(_field(paths, camera, where), where) for camera in CAMERAS},
    )


def _question(item: Any, kind: str, where: str) -> Question:
    tags = _object(item, where).get("tag", [])
    # the published validation questions have tags and no answers
    answer = item.get("A") or "" if tags else _field(item, "A", where)
    question = _field(item, "Q", where)
    for name, value in (("Q", question), ("A", answer)):
        if not isinstance(value, str):
            raise SourceError(f"{where}: field {name!r}: got {value!r}, expected text")
    if not isinstance(tags, list) or any(type(tag) is not int for tag in tags):
        raise SourceError(f"{where}: field 'tag': got {tags!r}, expected a list of integers")
    return Question(question=question, answer=answer, kind=kind, tags=tuple(tags))


def _relative(text: Any, where: str) -> PurePosixPath:
    """`../nuscenes/samples/CAM_BACK/x.jpg` -> `samples/CAM_BACK/x.jpg`; a path out of the image folder is refused."""
    path = PurePosixPath(text) if isinstance(text, str) else PurePosixPath("/")
    if path.parts[:2] == ("..", "nuscenes"):
        path = PurePosixPath(*path.parts[2:])
    if path.is_absolute() or ".." in path.parts:
        raise SourceError(f"{where}: field 'image_paths': got {text!r}, expected '../nuscenes/samples/<camera>/<file>'")
    return path


def _field(record: Any, name: str, where: str) -> Any:
    if name not in _object(record, where):
        raise SourceError(
            f"{where}: field {name!r}: got nothing, expected it to be there; got {sorted(record)[:_SHOWN]}"
        )
    return record[name]


def _list(record: Any, name: str, where: str) -> list[Any]:
    value = _field(record, name, where)
    if not isinstance(value, list):
        raise SourceError(f"{where}: field {name!r}: got {type(value).__name__}, expected a JSON list")
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(f"{where}: got {type(value).__name__}, expected a JSON object")
    return value
