"""DriveLM's annotations and nuScenes' images in, frames out; the images are read only when a frame is made."""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from data_shards.schema import RawFrame
from data_shards.sources.drivelm_annotations import KeyFrame, SourceError, drop_missing, load_key_frames
from data_shards.sources.drivelm_select import (
    SelectionError,
    add_test_form,
    references_json,
    select_test_form,
    select_test_questions,
    split_by_scene,
    tagged_questions,
)
from data_shards.sources.multiple_choice import multiple_choice

__all__ = [
    "Form",
    "KeyFrame",
    "SelectionError",
    "SourceError",
    "add_test_form",
    "drivelm_frames",
    "drop_missing",
    "load_key_frames",
    "make_frame",
    "multiple_choice",
    "references_json",
    "select_test_form",
    "select_test_questions",
    "split_by_scene",
    "tagged_questions",
]

Form = Literal["raw", "test", "both"]

SOURCE = "drivelm"
LICENCE = "labels: DriveLM, CC BY-NC-SA 4.0; images: nuScenes by Motional, terms of use, non-commercial"

_JPEG_START = b"\xff\xd8"


def drivelm_frames(
    annotations: Path,
    image_root: Path,
    *,
    form: Form = "raw",
    seed: int = 0,
    scenes: Collection[str] | None = None,
    skip_missing: bool = False,
) -> Iterator[RawFrame]:
    """Every annotated frame with its six images.

    Args:
        annotations: DriveLM JSON in the training form, or in the tagged test form.
        image_root: folder that holds nuScenes' `samples`.
        form: `raw` all questions as annotated; `test` the selected ones with tags and options; `both` all of them, the
            selected ones with tags.
        seed: of the options of multiple-choice questions; the same for a frame whatever is read besides.
        scenes: only these scenes.
        skip_missing: leave out frames whose images are not all there.

    Raises:
        SourceError: a file or folder that is missing or malformed, a scene that is not annotated.
    """
    key_frames = load_key_frames(annotations, image_root, scenes=scenes)
    for key_frame in drop_missing(key_frames, image_root, skip_missing=skip_missing)[0]:
        yield make_frame(key_frame, form=form, seed=seed)


def make_frame(key_frame: KeyFrame, *, form: Form, seed: int) -> RawFrame:
    """Read a frame's images and bring its questions into a form.

    Raises:
        SourceError: an image that is no JPEG, or a question without an answer where answers are needed.
    """
    frame = RawFrame(
        key=f"{key_frame.scene}_{key_frame.frame}",
        scene=key_frame.scene,
        frame=key_frame.frame,
        source=SOURCE,
        images={camera: _read_jpeg(path) for camera, path in key_frame.image_paths.items()},
        questions=key_frame.questions,
        objects=key_frame.objects,
    )
    if form == "raw":
        return frame
    digest = hashlib.sha256(frame.key.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
    return select_test_form(frame, rng) if form == "test" else add_test_form(frame, rng)


def _read_jpeg(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(_JPEG_START):
        raise SourceError(f"{path}: got a file that does not begin as a JPEG, expected a JPEG image; copy it again")
    return data
