"""One tar in, its members or its index entries out: every header is read and the end is checked."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_shards.decode import ImageError, jpeg_size
from data_shards.entries import MemberSpan, SampleEntry, ShardError
from data_shards.schema import SchemaError, frame_from_json, image_name

_END_BYTES = 1024
"""A tar ends with at least two blocks of zeros."""


class _Member(NamedTuple):
    key: str
    suffix: str
    span: MemberSpan
    data: bytes


def index_shard(tar: Path) -> list[SampleEntry]:
    """Index one tar.

    Stricter than `tarfile`, which takes a damaged header for the end of the archive: after the last member there must
    be zeros only. A single frame whose record is not of the schema is indexed without questions: whoever reads it says
    what is wrong with it.

    Raises:
        ShardError: a cut or damaged tar, a member that is not a plain file, a frame whose members are not next to each
            other, no frame with a record of the schema.
    """
    entries: dict[str, SampleEntry] = {}
    unusable: list[str] = []
    for key, members in groupby(_members(tar), key=lambda member: member.key):
        if key in entries:
            raise ShardError(f"{tar}: frame {key}: occurs twice, or its members are not next to each other")
        entries[key], problem = _entry(tar, key, list(members))
        unusable += [f"{tar}: frame {key}: {problem}"] if problem else []
    if unusable and len(unusable) == len(entries):
        raise ShardError(unusable[0])
    return list(entries.values())


def index_members(tar: Path) -> list[SampleEntry]:
    """Index a tar whose samples are no frames: names and places of their members alone.

    Raises:
        ShardError: as `index_shard`, but for the schema.
    """
    entries: dict[str, SampleEntry] = {}
    for key, members in groupby(_members(tar), key=lambda member: member.key):
        if key in entries:
            raise ShardError(f"{tar}: sample {key}: occurs twice, or its members are not next to each other")
        spans = {member.suffix: member.span for member in members}
        entries[key] = SampleEntry(key=key, shard=tar.name, members=spans, num_questions=0, num_images=0)
    return list(entries.values())


def walk_members(tar: Path, file: BinaryIO) -> Iterator[tuple[str, str, int, int]]:
    """Key, suffix, offset and size of each member of an open tar; reads the headers and what follows the last member.

    The key of `folder/a_b.cam_back.jpg` is `folder/a_b`, as in webdataset; like there, folders and files that have no
    key or no suffix (`README`, `._a.jpg`) belong to no sample.

    Raises:
        ShardError: a cut or damaged tar, a link or a special file.
    """
    end, length = 0, file.seek(0, os.SEEK_END)
    for info in _headers(tar, file):
        if info.isdir():
            end = info.offset_data
            continue
        if not info.isreg() or info.issparse():
            raise ShardError(f"{tar}: member {info.name!r}: got a link or special file, expected a file")
        if not 0 <= info.size <= length - info.offset_data or info.offset < end:
            raise ShardError(
                f"{tar}: member {info.name!r}: got {info.size} bytes from byte {info.offset_data} on, expected them "
                f"behind byte {end} and within {length}: the tar is damaged or cut short; write or copy it again"
            )
        end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        folder, slash, name = info.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if stem and suffix:
            yield f"{folder}{slash}{stem}", suffix, info.offset_data, info.size
    _check_end(tar, file, end)


def _headers(tar: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members as tarfile sees them; the numbers of a damaged header raise more than its own errors."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (info := archive.next()) is not None:
                yield info
    except (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise ShardError(f"{tar}: not a whole tar ({error}); write or copy it again") from error


def _members(tar: Path) -> Iterator[_Member]:
    with tar.open("rb") as file:
        for key, suffix, offset, size in walk_members(tar, file):
            if "/" in key:
                raise ShardError(
                    f"{tar}: member {key}.{suffix}: expected a name of the form '<scene>_<frame>.<suffix>'"
                )
            file.seek(offset)
            data = file.read(size)
            yield _Member(
                key, suffix, MemberSpan(offset=offset, size=size, sha256=hashlib.sha256(data).hexdigest()), data
            )


def _check_end(tar: Path, file: BinaryIO, end: int) -> None:
    file.seek(end)
    length = 0
    while chunk := file.read(1 << 20):
        if chunk.count(0) != len(chunk):
            raise ShardError(f"{tar}: damaged header near byte {end}: data follow the end; write or copy it again")
        length += len(chunk)
    if length < _END_BYTES:
        raise ShardError(f"{tar}: the end of the tar is missing: it is cut short; write or copy it again")


def _entry(tar: Path, key: str, members: list[_Member]) -> tuple[SampleEntry, str]:
    """The entry of a frame, and what is wrong with its record; empty where nothing is."""
    data = {member.suffix: member.data for member in members}
    if len(data) != len(members):
        raise ShardError(f"{tar}: frame {key}: a member occurs twice: {sorted(member.suffix for member in members)}")
    images = {name: value for suffix, value in data.items() if (name := image_name(suffix)) is not None}
    num_questions, problem = 0, ""
    try:
        if "json" not in data:
            raise SchemaError("member 'json' is missing")
        frame = frame_from_json(data["json"], images)
        images, num_questions = dict(frame.images), len(frame.questions)
    except SchemaError as error:
        problem = f"{error}; {_others(tar, data)}"
    entry = SampleEntry(
        key=key,
        shard=tar.name,
        members={member.suffix: member.span for member in members},
        num_questions=num_questions,
        num_images=len(images),
        image_sizes=tuple(_size_or_zero(value) for value in images.values()),
    )
    return entry, problem


def _others(tar: Path, suffixes: Iterable[str]) -> str:
    """What the frame's members are called, and how tars of such names are taken in."""
    return (
        f"got members {', '.join(sorted(suffixes))}, expected json and cam_front.jpg, ... or image_0.jpg, ...; tars of "
        f"another form are converted with `python -m data_shards conversations --tars {tar.parent} --image-field jpg "
        "--text-field json --out OUT`"
    )


def _size_or_zero(data: bytes) -> tuple[int, int]:
    try:
        return jpeg_size(data)
    except ImageError:
        return (0, 0)
