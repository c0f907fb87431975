"""LLaVA, ShareGPT or InternVL rows and an image folder in, frames out: rows with the same images share one frame."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data_shards.decode import ImageError
from data_shards.entries import LeftOut
from data_shards.schema import MAX_RECORD_BYTES, Question, RawFrame
from data_shards.sources.conversation_file import RowSpan, row_json, row_spans
from data_shards.sources.conversation_rows import Conversation, RowError, RowRules, parse_row
from data_shards.sources.drivelm_annotations import SourceError
from data_shards.views import stored_jpeg

_MOST_IMAGES = 10_000
"""Image names of the schema have up to four digits."""

MOST_ROW_BYTES = MAX_RECORD_BYTES // 2
"""Of one row; and rows of the same images begin another frame behind so many, so that its record stays readable."""


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """Where rows come from and how they are read.

    Attributes:
        annotations: JSONL file or JSON list.
        image_root: folder below which image paths lie; None where no row has an image.
        rules: for rows that are not plain.
        separate_turns: each turn becomes a question of its own, which sees no other turn.
        max_side: longest side of a stored image in pixels; None keeps the files.
        source: `dataset.json`'s name of it.
    """

    annotations: Path
    image_root: Path | None
    rules: RowRules
    separate_turns: bool
    max_side: int | None
    source: str


class FrameRows(NamedTuple):
    """The rows of one frame; rows of one scene have the same images, and `scene` is a digest of these."""

    scene: str
    rows: tuple[RowSpan, ...]


def scan_rows(job: Conversations, *, show_progress: bool = True) -> tuple[list[FrameRows], list[LeftOut]]:
    """Read every row once: which rows make a frame together, and which cannot be used.

    Frames are in the order of their first rows. Images are looked for and not opened.

    Raises:
        SourceError: a file or folder that is missing, or a list that is no JSON.
    """
    if job.image_root is not None and not job.image_root.is_dir():
        raise SourceError(f"{job.image_root}: field '--images': got a path that is no folder; correct the path")
    frames: dict[tuple[str, int], list[RowSpan]] = {}
    num_bytes: Counter[str] = Counter()
    bad: list[LeftOut] = []
    rows = tqdm(
        row_spans(job.annotations), unit="row", desc=job.annotations.name, disable=None if show_progress else True
    )
    for span, data in rows:
        try:
            _check_length(data)
            conversation = _parse(data, job.rules)
            _check_files(conversation, job.image_root)
        except RowError as error:
            bad.append(left_out((span.line,), error))
            continue
        content = "\0".join(conversation.images).encode() if conversation.images else data + b"%d" % span.line
        scene = hashlib.sha256(content).hexdigest()[:32]
        frames.setdefault((scene, num_bytes[scene] // MOST_ROW_BYTES), []).append(span)
        num_bytes[scene] += span.size
    return [FrameRows(scene, tuple(spans)) for (scene, _), spans in frames.items()], bad


def make_frames(frames: Sequence[FrameRows], job: Conversations) -> Iterator[RawFrame | LeftOut]:
    """Make frames; one whose image does not decode is left out with all its rows."""
    with job.annotations.open("rb") as file:
        for scene, spans in frames:
            conversations = []
            for span in spans:
                file.seek(span.offset)
                conversations.append(_parse(file.read(span.size), job.rules))
            try:
                images = [_read_image(name, job) for name in conversations[0].images]
            except RowError as error:
                yield left_out(tuple(span.line for span in spans), error)
                continue
            yield frame_of(scene, spans[0].line, images, conversations, job.separate_turns, job.source)


def frame_of(
    scene: str,
    number: int,
    images: Sequence[bytes],
    conversations: Sequence[Conversation],
    separate_turns: bool,
    source: str,
) -> RawFrame:
    """Images `IMAGE_0`, `IMAGE_1`, ... with a question for each conversation."""
    frame = f"{number:09d}"
    return RawFrame(
        key=f"{scene}_{frame}",
        scene=scene,
        frame=frame,
        source=source,
        images={f"IMAGE_{i}": data for i, data in enumerate(images)},
        questions=tuple(q for one in conversations for q in questions_of(one.turns, separate_turns)),
    )


def questions_of(turns: Sequence[tuple[str, str]], separate_turns: bool) -> list[Question]:
    """One question with its history, or one question for each turn."""
    if separate_turns:
        return [Question(question=question, answer=answer, kind="general") for question, answer in turns]
    question, answer = turns[-1]
    return [Question(question=question, answer=answer, kind="general", history=tuple(turns[:-1]))]


def left_out(lines: tuple[int, ...], error: RowError) -> LeftOut:
    """Rows and what is wrong with them."""
    return LeftOut(lines=lines, field=error.field, got=error.got, expected=error.expected)


def _parse(data: bytes, rules: RowRules) -> Conversation:
    try:
        row = row_json(data)
    except ValueError as error:
        raise RowError("row", f"text that is no JSON ({error})", "one JSON object") from error
    return parse_row(row, rules)


def _check_length(data: bytes) -> None:
    if len(data) > MOST_ROW_BYTES:
        raise RowError("row", f"{len(data)} bytes", f"at most {MOST_ROW_BYTES}")


def _check_files(conversation: Conversation, image_root: Path | None) -> None:
    if conversation.images and image_root is None:
        raise RowError("image", repr(conversation.images[0]), "--images, the folder it lies in")
    if len(conversation.images) > _MOST_IMAGES:
        raise RowError("image", f"{len(conversation.images)} images", f"at most {_MOST_IMAGES}")
    for name in conversation.images:
        if image_root is not None and not os.path.isfile(image_root / name):  # Path's raises on a long name
            raise RowError("image", f"{name!r}, which is not below --images", "a file that is there")


def _read_image(name: str, job: Conversations) -> bytes:
    assert job.image_root is not None
    try:
        return stored_jpeg((job.image_root / name).read_bytes(), max_side=job.max_side)
    except FileNotFoundError as error:
        raise RowError("image", f"{name!r}, which is not below --images", "a file that is there") from error
    except ImageError as error:
        raise RowError("image", f"{name!r}: {error}", "an image file that decodes") from error
