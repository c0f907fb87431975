"""The records of a shard: one tar sample is one key frame, with its images and all its questions.

A conversation of several turns is one `Question`: its last turn is `question` and `answer`, the turns before it are
`history`. Every answer of it, old and last, is written by the assistant and may be learnt; the questions of a frame
never see each other, the turns of one question do. In the JSON it is `"history": [["question", "answer"], ...]`, left
out where there is none.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAMERAS = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
"""The six nuScenes cameras in canvas order: the upper row of the 3x2 canvas, then the lower."""

CANVAS_GRID = (3, 2)
"""Columns and rows of the canvas."""

VIEW_SIZE = (1600, 900)
"""Width and height in pixels to which every DriveLM coordinate refers, whatever the stored image size."""

QUESTION_KINDS = ("perception", "prediction", "planning", "behavior", "general")

TAG_NAMES = ("accuracy", "judge", "language", "match")
"""What DriveLM's test tags 0 to 3 are scored by."""

TAGS = range(len(TAG_NAMES))

MAX_RECORD_BYTES = 16 << 20
"""A longer JSON member is not written, and refused before it is read; the longest of DriveLM has under 100 KB."""

MAX_IMAGE_BYTES = 64 << 20
"""A longer image member is not written, and refused before it is read."""

_KEY = re.compile(r"[A-Za-z0-9_-]{1,79}")  # with the longest suffix it fits the 100 characters of a tar name
_NUMBERED_IMAGE = re.compile(r"IMAGE_(0|[1-9][0-9]{0,3})")


class SchemaError(ValueError):
    """A record that is not of the shard schema; the message names record, field, got, expected and fix."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of a frame with its reference answer.

    Attributes:
        question: text as the model is asked.
        answer: reference text.
        kind: one of `QUESTION_KINDS`.
        tags: of `TAGS`; empty outside the test form.
        history: earlier turns of the same conversation, oldest first, each a question and its answer.
    """

    question: str
    answer: str
    kind: str
    tags: tuple[int, ...] = ()
    history: tuple[tuple[str, str], ...] = ()

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """All turns of the conversation, oldest first; the last is `question` and `answer`."""
        return (*self.history, (self.question, self.answer))


@dataclass(frozen=True, kw_only=True)
class RawFrame:
    """One tar sample as read: encoded images and all questions.

    Attributes:
        key: `<scene>_<frame>`, unique within a dataset; holds no dot (webdataset splits names at the first).
        scene, frame: identifiers; splits are made by scene.
        source: `drivelm`, `synthetic`, `synthetic-general`, ...
        images: image name to JPEG bytes, in order; names are `CAMERAS` or `IMAGE_0`, `IMAGE_1`, ...; may be empty.
        questions: every question of the frame.
        objects: DriveLM's `key_object_infos`, tag to attributes.
    """

    key: str
    scene: str
    frame: str
    source: str
    images: Mapping[str, bytes]
    questions: tuple[Question, ...]
    objects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def member_suffix(image_name: str) -> str:
    """`CAM_FRONT` -> `cam_front.jpg`, the image's tar member name after the key."""
    return f"{image_name.lower()}.jpg"


def image_name(suffix: str) -> str | None:
    """`cam_front.jpg` -> `CAM_FRONT`, the inverse of `member_suffix`; None where it is no image of the schema."""
    name = suffix.removesuffix(".jpg").upper()
    if suffix != member_suffix(name) or not (name in CAMERAS or _NUMBERED_IMAGE.fullmatch(name)):
        return None
    return name


def check_frame(frame: RawFrame) -> None:
    """Refuse a frame that cannot be written as one tar sample.

    Raises:
        SchemaError: a key that is not `<scene>_<frame>` or holds other characters than letters, digits, `_` and `-`,
            an image name outside the schema, an unknown question type or tag.
    """
    if not _KEY.fullmatch(frame.key) or frame.key != f"{frame.scene}_{frame.frame}":
        raise SchemaError(
            f"frame of scene {frame.scene!r}: field 'key': got {frame.key!r}, expected '<scene>_<frame>', at most "
            "79 letters, digits, '_' and '-'"
        )
    for name in frame.images:
        if image_name(member_suffix(name)) != name:
            raise SchemaError(
                f"{frame.key}: field 'images': got {name!r}, "
                f"expected one of {', '.join(CAMERAS)} or IMAGE_0, IMAGE_1, ..."
            )
    for i, question in enumerate(frame.questions):
        if question.kind not in QUESTION_KINDS:
            raise SchemaError(
                f"{frame.key}: question {i}: field 'type': got {question.kind!r}, "
                f"expected one of {', '.join(QUESTION_KINDS)}"
            )
        if any(tag not in TAGS for tag in question.tags):
            raise SchemaError(
                f"{frame.key}: question {i}: field 'tag': got {list(question.tags)}, expected numbers 0 to 3"
            )


def frame_to_json(frame: RawFrame) -> bytes:
    """The `.json` member of a frame: everything but the image bytes.

    Raises:
        SchemaError: a text that UTF-8 cannot write.
    """
    record = {
        "key": frame.key,
        "scene": frame.scene,
        "frame": frame.frame,
        "source": frame.source,
        "images": list(frame.images),
        "questions": [
            {
                "question": q.question,
                "answer": q.answer,
                "type": q.kind,
                "tag": list(q.tags),
                **({"history": [list(turn) for turn in q.history]} if q.history else {}),
            }
            for q in frame.questions
        ],
        "key_object_infos": {tag: dict(info) for tag, info in frame.objects.items()},
    }
    try:
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise SchemaError(f"{frame.key}: got half of a surrogate pair in a text ({error}), expected text") from error


def frame_from_json(text: bytes, images: Mapping[str, bytes]) -> RawFrame:
    """Rebuild a frame from its `.json` member and its image members.

    Raises:
        SchemaError: malformed JSON, a missing or wrongly typed field, an unknown question type, a listed image that
            is not there or one that is not listed.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"frame JSON: got text that does not parse ({error}), expected one JSON object") from error
    if not isinstance(record, dict):
        raise SchemaError(f"frame JSON: got {type(record).__name__}, expected an object")
    key = _typed(record, "key", str, "frame")
    names = _typed(record, "images", list, key)
    questions = _typed(record, "questions", list, key)
    if sorted(map(str, names)) != sorted(images):
        raise SchemaError(f"{key}: field 'images': got members {sorted(images)}, expected the listed {names}")
    return RawFrame(
        key=key,
        scene=_typed(record, "scene", str, key),
        frame=_typed(record, "frame", str, key),
        source=_typed(record, "source", str, key),
        images={name: images[name] for name in names},
        questions=tuple(_question(item, f"{key}: question {i}") for i, item in enumerate(questions)),
        objects=_objects(record, key),
    )


def _objects(record: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    objects = _typed(record, "key_object_infos", dict, key)
    for tag, info in objects.items():
        if not isinstance(info, dict):
            raise SchemaError(f"{key}: field 'key_object_infos': {tag}: got {type(info).__name__}, expected an object")
    return objects


def _question(item: Any, where: str) -> Question:
    if not isinstance(item, dict):
        raise SchemaError(f"{where}: got {type(item).__name__}, expected an object")
    kind = _typed(item, "type", str, where)
    if kind not in QUESTION_KINDS:
        raise SchemaError(f"{where}: field 'type': got {kind!r}, expected one of {', '.join(QUESTION_KINDS)}")
    tags = _typed(item, "tag", list, where)
    if any(type(tag) is not int for tag in tags):
        raise SchemaError(f"{where}: field 'tag': got {tags!r}, expected a list of integers")
    return Question(
        question=_typed(item, "question", str, where),
        answer=_typed(item, "answer", str, where),
        kind=kind,
        tags=tuple(tags),
        history=_history(item.get("history", []), where),
    )


def _history(turns: Any, where: str) -> tuple[tuple[str, str], ...]:
    sound = isinstance(turns, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) and is_text(text) for text in turn)
        for turn in turns
    )
    if not sound:
        raise SchemaError(f"{where}: field 'history': got {str(turns)[:60]}, expected a list of [question, answer]")
    return tuple((question, answer) for question, answer in turns)


def is_text(value: str) -> bool:
    """Whether UTF-8 can write it; an escape in JSON may be half of a surrogate pair, which no tokenizer takes."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _typed(record: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = record.get(name)
    if not isinstance(value, kind):
        got = "nothing" if name not in record else type(value).__name__
        raise SchemaError(f"{where}: field {name!r}: got {got}, expected {kind.__name__}")
    if isinstance(value, str) and not is_text(value):
        raise SchemaError(f"{where}: field {name!r}: got half of a surrogate pair in {value!r:.60}, expected text")
    return value
