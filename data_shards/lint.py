"""A directory of shards in, a list of everything that is wrong with it out; looks at headers, or at every byte."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_shards.dataset_file import ShardInfo, dataset_shards, read_dataset_file
from data_shards.entries import MemberSpan, ShardError
from data_shards.index import ShardIndex, index_path, read_index
from data_shards.scan import walk_members
from data_shards.schema import image_name

_BLOCK = 1 << 20


class LintError(ValueError):
    """Shards that are damaged; the message lists what is wrong, one line each."""


def lint(directory: Path, *, verify: bool = False) -> list[str]:
    """Problems of the shards of a directory, each naming the file; empty where there is none.

    Checked are the indexes' own checksums, names and places of members against the tar's headers, member names against
    the schema, sizes, and keys that occur twice.

    Args:
        verify: also read every byte and compare the checksums of members and tars.

    Raises:
        ShardError: no shards, a listed shard that is missing, one that is not listed, an unfinished dataset.
    """
    info = read_dataset_file(directory)
    listed = {shard.name: shard for shard in info.shards} if info else {}
    problems: list[str] = []
    first: dict[str, str] = {}
    for tar in dataset_shards(directory):
        if not index_path(tar).is_file():
            problems.append(f"{index_path(tar)}: missing; make it with `python -m data_shards index {directory}`")
            continue
        try:
            index = read_index(tar)
        except ShardError as error:
            problems.append(str(error))
            continue
        problems += _counts(tar, index, listed.get(tar.name))
        problems += _headers(tar, index)
        problems += _twice(tar, index, first)
        if verify:
            problems += _contents(tar, index)
    return problems


def _counts(tar: Path, index: ShardIndex, listed: ShardInfo | None) -> Iterator[str]:
    size = tar.stat().st_size
    if size != index.num_bytes:
        yield f"{tar}: got {size} bytes, expected the {index.num_bytes} of its index: cut short or another tar"
    if listed is None:
        return
    got = (len(index.table), int(index.table.num_questions.sum()), index.num_bytes, index.tar_sha256)
    expected = (listed.samples, listed.questions, listed.bytes, listed.sha256 or index.tar_sha256)
    for name, one, other in zip(("samples", "questions", "bytes", "sha256"), got, expected, strict=True):
        if one != other:
            yield f"{index_path(tar)}: field {name!r}: got {one}, expected {other} of dataset.json"


def _headers(tar: Path, index: ShardIndex) -> Iterator[str]:
    expected = {(e.key, s): (span.offset, span.size) for e in index.table for s, span in e.members.items()}
    try:
        with tar.open("rb") as file:
            got = {(key, suffix): (offset, size) for key, suffix, offset, size in walk_members(tar, file)}
    except ShardError as error:
        yield str(error)
        return
    for key, suffix in expected.keys() - got.keys():
        yield f"{tar}: member {key}.{suffix}: in the index and not in the tar"
    for key, suffix in got.keys() - expected.keys():
        yield f"{tar}: member {key}.{suffix}: in the tar and not in its index"
    for name in expected.keys() & got.keys():
        if expected[name] != got[name]:
            yield f"{tar}: member {'.'.join(name)}: got offset and size {got[name]}, expected {expected[name]}"
    unknown = sorted({suffix for _, suffix in got if suffix != "json" and image_name(suffix) is None})
    if unknown:
        yield (
            f"{tar}: got members {', '.join(unknown)}, expected json, cam_front.jpg, ... or image_0.jpg, ...; they are "
            "not used"
        )


def _twice(tar: Path, index: ShardIndex, first: dict[str, str]) -> Iterator[str]:
    for key in index.table.keys:
        if key in first:
            yield f"{tar}: frame {key}: is also in {first[key]}"
        first.setdefault(key, tar.name)


def _contents(tar: Path, index: ShardIndex) -> Iterator[str]:
    with tar.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == index.tar_sha256:
            return
        bad = [
            f"{tar}: offset {span.offset}: frame {entry.key}: member {suffix!r}: the checksum differs: damaged"
            for entry in index.table
            for suffix, span in entry.members.items()
            if _digest(file, span) != span.sha256
        ]
    yield from bad or [f"{tar}: the checksum differs, and that of no member: a header or padding is damaged"]


def _digest(file: BinaryIO, span: MemberSpan) -> str:
    digest, left = hashlib.sha256(), span.size
    file.seek(span.offset)
    while left and (chunk := file.read(min(left, _BLOCK))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()
