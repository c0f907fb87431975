"""A directory of tar shards in, its index out: where each member of each frame lies, and its checksum.

A shard `NAME.tar` has `NAME.index.json` beside it; `dataset.json` names the shards of a directory.
"""

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_shards.atomic import write_atomically
from data_shards.dataset_file import DatasetInfo, ShardInfo, dataset_shards, read_dataset_file, write_dataset_file
from data_shards.entries import MemberSpan, SampleEntry, ShardError
from data_shards.scan import index_shard

__all__ = [
    "DatasetIndex",
    "MemberSpan",
    "SampleEntry",
    "ShardError",
    "index_path",
    "index_shard",
    "load_index",
    "read_index",
    "rebuild_index",
    "shard_info",
    "shard_is_whole",
    "write_index",
]

INDEX_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DatasetIndex:
    """All frames of a directory of shards, in shard order."""

    root: Path
    samples: tuple[SampleEntry, ...]

    def __len__(self) -> int:
        return len(self.samples)


def index_path(tar: Path) -> Path:
    """`x/shard-000000.tar` -> `x/shard-000000.index.json`."""
    return tar.with_suffix(".index.json")


def load_index(directory: Path) -> DatasetIndex:
    """Read the indexes of a directory; a tar that lacks one is indexed, and the index kept where it can be written.

    Raises:
        ShardError: a directory without tars, a listed shard that is missing, one that is not listed, an unfinished
            dataset, an index that does not parse, a frame that occurs twice.
    """
    samples = [entry for tar in dataset_shards(directory) for entry in _read_or_make(tar)]
    _check_unique(directory, samples)
    return DatasetIndex(root=directory, samples=tuple(samples))


def rebuild_index(directory: Path) -> DatasetInfo:
    """Index every tar of a directory anew and write `dataset.json` over them.

    Raises:
        ShardError: no tars, a damaged tar, a frame that occurs twice.
    """
    old = read_dataset_file(directory)
    tars = sorted(directory.glob("*.tar"))
    if old is None or not tars:
        tars = dataset_shards(directory)
    by_shard = [index_shard(tar) for tar in tars]
    _check_unique(directory, [entry for entries in by_shard for entry in entries])
    for tar, entries in zip(tars, by_shard, strict=True):
        write_index(tar, entries)
    info = DatasetInfo(
        source=old.source if old else "unknown",
        licence=old.licence if old else "unknown",
        shards=tuple(shard_info(tar, entries) for tar, entries in zip(tars, by_shard, strict=True)),
        build=old.build if old else {},
    )
    write_dataset_file(directory, info)
    return info


def shard_info(tar: Path, entries: Sequence[SampleEntry]) -> ShardInfo:
    """A shard's line in `dataset.json`."""
    questions = sum(entry.num_questions for entry in entries)
    return ShardInfo(name=tar.name, samples=len(entries), questions=questions, bytes=tar.stat().st_size)


def write_index(tar: Path, entries: Sequence[SampleEntry]) -> Path:
    """Write a shard's index beside it, whole or not at all; returns its path."""
    record = {
        "version": INDEX_VERSION,
        "shard": tar.name,
        "bytes": tar.stat().st_size,
        "samples": [_entry_to_json(entry) for entry in entries],
    }
    path = index_path(tar)
    write_atomically(path, json.dumps(record, separators=(",", ":")).encode())
    return path


def read_index(tar: Path) -> list[SampleEntry]:
    """A shard's index, read back.

    The tar itself is not looked at: damage is found frame by frame when it is read.

    Raises:
        ShardError: the index does not parse, is of another version or of another shard.
    """
    return _parse_index(tar)[1]


def shard_is_whole(tar: Path, num_samples: int) -> bool:
    """Whether a tar and its index are there, agree in size and hold `num_samples` frames."""
    if not tar.is_file() or not index_path(tar).is_file():
        return False
    try:
        size, entries = _parse_index(tar)
    except ShardError:
        return False
    return size == tar.stat().st_size and len(entries) == num_samples


def _parse_index(tar: Path) -> tuple[int, list[SampleEntry]]:
    path = index_path(tar)
    try:
        record = json.loads(path.read_bytes())
        got, expected = (record["version"], record["shard"]), (INDEX_VERSION, tar.name)
        if got != expected:
            raise ValueError(f"got version and shard {got}, expected {expected}")
        return int(record["bytes"]), [_entry_from_json(tar.name, item) for item in record["samples"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            f"{path}: not a usable index ({error!r}); make it anew with `python -m data_shards index {tar.parent}`"
        ) from error


def _read_or_make(tar: Path) -> list[SampleEntry]:
    if index_path(tar).is_file():
        return read_index(tar)
    entries = index_shard(tar)
    try:
        write_index(tar, entries)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        # a shard that this user may only read is indexed again each time
    return entries


def _check_unique(directory: Path, samples: Sequence[SampleEntry]) -> None:
    first: dict[str, str] = {}
    for entry in samples:
        if entry.key in first:
            raise ShardError(
                f"{directory / entry.shard}: frame {entry.key} is also in {first[entry.key]}; keep one of the two"
            )
        first[entry.key] = entry.shard


def _entry_to_json(entry: SampleEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "members": {suffix: [span.offset, span.size, span.sha256] for suffix, span in entry.members.items()},
        "questions": entry.num_questions,
        "image_sizes": [list(size) for size in entry.image_sizes],
    }


def _entry_from_json(shard: str, item: Any) -> SampleEntry:
    members = {}
    for suffix, (offset, size, digest) in item["members"].items():
        if type(offset) is not int or type(size) is not int or min(offset, size) < 0 or not isinstance(digest, str):
            raise ValueError(f"{item['key']}: {suffix}: got {[offset, size, digest]}, expected offset, size, sha256")
        members[suffix] = MemberSpan(offset=offset, size=size, sha256=digest)
    sizes = tuple((int(width), int(height)) for width, height in item["image_sizes"])
    return SampleEntry(
        key=str(item["key"]),
        shard=shard,
        members=members,
        num_questions=int(item["questions"]),
        num_images=len(sizes),
        image_sizes=sizes,
    )
