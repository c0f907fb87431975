"""Members of any content in, a tar and an index over it out, with right checksums: what a reader cannot trust."""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from data_shards.entries import MemberSpan, SampleEntry
from data_shards.index import DatasetIndex
from data_shards.samples import ShardPart, ShardSamples
from data_shards.shard_table import ShardTable

SHARD = "shard-000000.tar"


def pack(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write names with their bytes to a tar, in this order."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def raw_dataset(directory: Path, frames: Mapping[str, Mapping[str, bytes]], num_questions: int = 1) -> DatasetIndex:
    """Write `key -> suffix -> bytes` to one tar; the index says what is in it, whatever that is."""
    directory.mkdir(parents=True, exist_ok=True)
    named = ((f"{key}.{suffix}", data) for key, members in frames.items() for suffix, data in members.items())
    pack(directory / SHARD, named)
    with tarfile.open(directory / SHARD) as archive:
        offsets = {info.name: info.offset_data for info in archive}
    return _index(
        directory,
        [
            SampleEntry(
                key=key,
                shard=SHARD,
                members={
                    suffix: MemberSpan(
                        offset=offsets[f"{key}.{suffix}"], size=len(data), sha256=hashlib.sha256(data).hexdigest()
                    )
                    for suffix, data in members.items()
                },
                num_questions=num_questions,
                num_images=len(members) - 1,
            )
            for key, members in frames.items()
        ],
    )


def with_entry(index: DatasetIndex, position: int, entry: SampleEntry) -> DatasetIndex:
    """The index with another entry at a position."""
    samples = list(index.samples)
    samples[position] = entry
    return _index(index.root, samples)


def _index(directory: Path, entries: Sequence[SampleEntry]) -> DatasetIndex:
    part = ShardPart(
        tar=directory / SHARD,
        num_samples=len(entries),
        num_questions=sum(entry.num_questions for entry in entries),
        index_sha256="none",
        table=cast(ShardTable, entries),
    )
    return DatasetIndex(root=directory, samples=ShardSamples([part], _unread))


def _unread(part: ShardPart) -> ShardTable:
    raise AssertionError(f"{part.tar}: its table is at hand")
