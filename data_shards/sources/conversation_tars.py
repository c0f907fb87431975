"""Third-party webdataset tars in, frames out: `key.jpg` beside `key.json` (conversations) or `key.txt` (a caption)."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from data_shards.decode import ImageError
from data_shards.entries import LeftOut
from data_shards.scan import walk_members
from data_shards.schema import RawFrame
from data_shards.sources.conversation_file import row_json
from data_shards.sources.conversation_rows import Conversation, RowError, RowRules, parse_row
from data_shards.sources.conversations import MOST_ROW_BYTES, frame_of, left_out
from data_shards.sources.drivelm_annotations import SourceError
from data_shards.views import stored_jpeg


@dataclass(frozen=True, kw_only=True)
class TarFields:
    """Which members of a sample are used, and how.

    Attributes:
        images: suffixes of its images, in their order; those that a sample lacks are left out of it. Upper and lower
            case are the same, as in webdataset.
        text: suffix of its text; `json` is a row as in a conversation file, any other a caption.
        caption_key: field of the JSON that holds a caption, where it is no conversation.
        question: what is asked where there is only a caption.
        rules, separate_turns, max_side, source: as for `Conversations`.
    """

    images: tuple[str, ...]
    text: str
    caption_key: str | None
    question: str
    rules: RowRules
    separate_turns: bool
    max_side: int | None
    source: str

    @property
    def wanted(self) -> tuple[str, ...]:
        """All suffixes that are used."""
        return self.text, *self.images


class TarSample(NamedTuple):
    """One sample: its tar, its key, its place in the whole (from 1), and offset and size of each member used."""

    tar: Path
    key: str
    number: int
    text: tuple[int, int]
    images: tuple[tuple[int, int], ...]

    @property
    def scene(self) -> str:
        """A digest of where it comes from."""
        return hashlib.sha256(f"{self.tar.name}/{self.key}".encode(errors="surrogateescape")).hexdigest()[:32]


def scan_tars(directory: Path, fields: TarFields) -> tuple[list[TarSample], list[LeftOut], Counter[str]]:
    """Samples of all tars of a directory, those that lack a member, and how often each member was not asked for.

    Raises:
        SourceError: no tars, or none with a member that was asked for.
        ShardError: a cut or damaged tar.
    """
    tars = sorted(directory.glob("*.tar"))
    if not tars:
        raise SourceError(f"{directory}: field '--tars': got a folder without *.tar, expected webdataset tars")
    samples: list[TarSample] = []
    bad: list[LeftOut] = []
    others: Counter[str] = Counter()
    for tar in tars:
        with tar.open("rb") as file:
            for key, group in groupby(walk_members(tar, file), key=lambda member: member[0]):
                members = [(suffix.lower(), (offset, size)) for _, suffix, offset, size in group]
                others.update(suffix for suffix, _ in members if suffix not in fields.wanted)
                number = len(samples) + len(bad) + 1
                try:
                    samples.append(_sample(tar, key, number, members, fields))
                except RowError as error:
                    bad.append(left_out((number,), error))
    if not samples:
        there = ", ".join(f"{name} ({count})" for name, count in sorted(others.items()))
        there = there or (f"no other; first {bad[0]}" if bad else "none")
        raise SourceError(
            f"{directory}: fields '--image-field', '--text-field': got {', '.join(fields.wanted)}, expected some of "
            f"those there are: {there}"
        )
    return samples, bad, others


def _sample(
    tar: Path, key: str, number: int, members: Sequence[tuple[str, tuple[int, int]]], fields: TarFields
) -> TarSample:
    spans = dict(members)
    images = tuple(spans[suffix] for suffix in fields.images if suffix in spans)
    got = f"{tar.name}: {key}: .{', .'.join(suffix for suffix, _ in members)}"
    if len(spans) != len(members):
        raise RowError("members", got, "each once")
    if fields.text not in spans or (fields.images and not images):
        expected = f".{fields.text}" + (f" and .{' or .'.join(fields.images)}" if fields.images else "")
        raise RowError("members", got, f"{expected}, next to each other")
    if spans[fields.text][1] > MOST_ROW_BYTES:
        raise RowError("members", f"{got}: text of {spans[fields.text][1]} bytes", f"at most {MOST_ROW_BYTES}")
    return TarSample(tar, key, number, spans[fields.text], images)


def make_tar_frames(samples: Sequence[TarSample], fields: TarFields) -> Iterator[RawFrame | LeftOut]:
    """Make frames; a sample whose text or image cannot be used is left out."""
    for tar, group in groupby(samples, key=lambda sample: sample.tar):
        with tar.open("rb") as file:
            for sample in group:
                try:
                    yield _frame(file.fileno(), sample, fields)
                except RowError as error:
                    yield left_out((sample.number,), error)


def _frame(descriptor: int, sample: TarSample, fields: TarFields) -> RawFrame:
    data = [os.pread(descriptor, size, offset) for offset, size in (sample.text, *sample.images)]
    where = f"{sample.tar.name}: {sample.key}"
    try:
        images = [stored_jpeg(image, max_side=fields.max_side) for image in data[1:]]
    except ImageError as error:
        raise RowError("image", f"{where}: {error}", "an image that decodes") from error
    try:
        conversation = _conversation(data[0], len(images), fields)
    except RowError as error:
        raise RowError(error.field, f"{where}: {error.got}", error.expected) from error
    return frame_of(sample.scene, sample.number, images, [conversation], fields.separate_turns, fields.source)


def _conversation(text: bytes, num_images: int, fields: TarFields) -> Conversation:
    try:
        if fields.text != "json":
            return _caption(text.decode(), fields)
        row = row_json(text)
    except ValueError as error:
        raise RowError(fields.text, f"text that does not read ({error})", "UTF-8 text") from error
    if fields.caption_key is None:
        return parse_row(row, fields.rules, num_images=num_images)
    caption = row.get(fields.caption_key) if isinstance(row, dict) else None
    if not isinstance(caption, str):
        raise RowError(fields.caption_key, type(caption).__name__, "text")
    return _caption(caption, fields)


def _caption(caption: str, fields: TarFields) -> Conversation:
    row = {"conversations": [{"from": "human", "value": fields.question}, {"from": "gpt", "value": caption}]}
    return parse_row(row, fields.rules, num_images=0)
