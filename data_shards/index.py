"""A directory of tar shards in, its index out: where each member of each frame lies, and its checksum.

A shard `NAME.tar` has `NAME.index.json` beside it, with a checksum of its own and that of the tar; `dataset.json` names
the shards of a directory.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_shards.atomic import write_atomically, write_where_allowed
from data_shards.checked_json import dump_checked, load_checked
from data_shards.dataset_file import ShardInfo, dataset_shards, read_dataset_file
from data_shards.entries import LeftOut, SampleEntry, ShardError
from data_shards.samples import ShardPart, ShardSamples
from data_shards.scan import index_shard
from data_shards.shard_table import ShardTable, table_from_json, table_of, table_to_json

INDEX_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class DatasetIndex:
    """All frames of a directory of shards, in shard order; entries are made when they are asked for."""

    root: Path
    samples: ShardSamples

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def num_questions(self) -> int:
        """Of all frames."""
        return self.samples.num_questions


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """A shard's index file.

    Attributes:
        table: the frames.
        num_bytes, tar_sha256: size and checksum of the tar.
        left_out: rows of the source that were to be in this shard and could not be used.
        sha256: checksum of the index itself.
    """

    table: ShardTable
    num_bytes: int
    tar_sha256: str
    left_out: tuple[LeftOut, ...]
    sha256: str


def index_path(tar: Path) -> Path:
    """`x/shard-000000.tar` -> `x/shard-000000.index.json`."""
    return tar.with_suffix(".index.json")


def load_index(directory: Path) -> DatasetIndex:
    """Check the indexes of a directory; a tar that lacks one is indexed, and the index kept where it can be written.

    Every index is read once here and its checksum compared; only those of the shards in use stay in memory. The tars
    themselves are not looked at: damage is found frame by frame when they are read.

    Raises:
        ShardError: a directory without tars, a listed shard that is missing, one that is not listed, an unfinished
            dataset, an index that does not parse, was altered or is of another tar, a frame that occurs twice.
    """
    info = read_dataset_file(directory)
    listed = {shard.name: shard for shard in info.shards} if info else {}
    parts: list[ShardPart] = []
    hashes: list[np.ndarray] = []
    for tar in dataset_shards(directory):
        index = _read_or_make(tar, listed.get(tar.name))
        pinned = None if index_path(tar).is_file() else index.table
        parts.append(
            ShardPart(
                tar=tar,
                num_samples=len(index.table),
                num_questions=int(index.table.num_questions.sum()),
                index_sha256=index.sha256,
                table=pinned,
            )
        )
        hashes.append(key_hashes(index.table))
    samples = ShardSamples(parts, _read_again)
    check_unique(directory, hashes, lambda: map(samples.table, range(len(parts))))
    return DatasetIndex(root=directory, samples=samples)


def shard_info(tar: Path) -> ShardInfo:
    """A shard's line in `dataset.json`, from its index.

    Raises:
        ShardError: as `read_index`.
    """
    index = read_index(tar)
    questions = int(index.table.num_questions.sum())
    return ShardInfo(
        name=tar.name,
        samples=len(index.table),
        questions=questions,
        bytes=index.num_bytes,
        sha256=index.tar_sha256,
    )


def write_index(tar: Path, entries: Sequence[SampleEntry], *, left_out: Sequence[LeftOut] = ()) -> Path:
    """Write a shard's index beside it, whole or not at all; returns its path."""
    path = index_path(tar)
    write_atomically(path, _dump(tar, entries, left_out))
    return path


def read_index(tar: Path) -> ShardIndex:
    """A shard's index.

    The tar itself is not looked at: damage is found frame by frame when it is read.

    Raises:
        ShardError: the index does not parse, was altered, is of another version or of another shard.
    """
    path = index_path(tar)
    try:
        return _parse(tar, path.read_bytes())
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ShardError(
            f"{path}: not a usable index ({error!r}); make it anew with `python -m data_shards index {tar.parent}`"
        ) from error


def shard_is_whole(tar: Path, num_frames: int) -> bool:
    """Whether a tar and its index are there, agree in size and hold `num_frames` frames, those left out included."""
    if not tar.is_file() or not index_path(tar).is_file():
        return False
    try:
        index = read_index(tar)
    except ShardError:
        return False
    return index.num_bytes == tar.stat().st_size and len(index.table) + len(index.left_out) == num_frames


def key_hashes(table: ShardTable) -> np.ndarray:
    """A hash of each key, int64 [S], the same within this process."""
    return np.fromiter(map(hash, table.keys), np.int64, len(table))


def check_unique(directory: Path, hashes: Sequence[np.ndarray], tables: Callable[[], Iterable[ShardTable]]) -> None:
    """Refuse a key that occurs twice; tables are read only where two hashes are equal.

    Args:
        hashes: `key_hashes` of every shard, int64 [S] each.
        tables: gives the tables of the shards again.

    Raises:
        ShardError: there is such a one.
    """
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    doubtful = set(values[counts > 1].tolist())
    if doubtful:
        pairs = ((key, table.shard) for table in tables() for key in table.keys if hash(key) in doubtful)
        add_unique(directory, {}, pairs)


def add_unique(directory: Path, first: dict[str, str], pairs: Iterable[tuple[str, str]]) -> None:
    """Add keys with their shards to those that came first.

    Raises:
        ShardError: a key that is there already.
    """
    for key, shard in pairs:
        if key in first:
            raise ShardError(f"{directory / shard}: frame {key} is also in {first[key]}; keep one of the two")
        first[key] = shard


def _dump(tar: Path, entries: Sequence[SampleEntry], left_out: Sequence[LeftOut]) -> bytes:
    with tar.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = {
        "version": INDEX_VERSION,
        "shard": tar.name,
        "bytes": tar.stat().st_size,
        "tar_sha256": digest,
        "left_out": [asdict(item) for item in left_out],
        **table_to_json(table_of(tar.name, entries)),
    }
    return dump_checked(record)


def _parse(tar: Path, data: bytes) -> ShardIndex:
    record, sha256 = load_checked(data)
    got, expected = (record["version"], record["shard"]), (INDEX_VERSION, tar.name)
    if got != expected:
        raise ValueError(f"got version and shard {got}, expected {expected}")
    return ShardIndex(
        table=table_from_json(tar.name, record),
        num_bytes=int(record["bytes"]),
        tar_sha256=str(record["tar_sha256"]),
        left_out=tuple(LeftOut(**{**item, "lines": tuple(item["lines"])}) for item in record["left_out"]),
        sha256=sha256,
    )


def _read_or_make(tar: Path, listed: ShardInfo | None) -> ShardIndex:
    path = index_path(tar)
    if path.is_file() and not path.read_bytes()[:13].startswith(b'{"version":1,'):  # which had no checksum
        index = read_index(tar)
    else:
        data = _dump(tar, index_shard(tar), ())
        write_where_allowed(path, data)
        index = _parse(tar, data)
    if listed is not None and listed.sha256 not in ("", index.tar_sha256):
        raise ShardError(
            f"{path}: the index is of a tar with checksum {index.tar_sha256[:16]}, expected {listed.sha256[:16]} of "
            f"dataset.json; copy the shard again with its index, or run `python -m data_shards index {tar.parent}`"
        )
    return index


def _read_again(part: ShardPart) -> ShardTable:
    index = read_index(part.tar)
    if index.sha256 != part.index_sha256:
        raise ShardError(f"{index_path(part.tar)}: the index was replaced while it was in use; start again")
    return index.table
