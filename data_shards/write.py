"""Frames in, tar shards with index and `dataset.json` out.

Each file is whole or not there, and a shard's bytes depend on its frames alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from data_shards.atomic import atomic_file
from data_shards.dataset_file import DatasetInfo, ShardInfo, write_dataset_file
from data_shards.entries import LeftOut, ShardError
from data_shards.index import (
    check_unique,
    index_path,
    key_hashes,
    read_index,
    shard_info,
    write_index,
)
from data_shards.scan import index_shard
from data_shards.schema import (
    MAX_IMAGE_BYTES,
    MAX_RECORD_BYTES,
    RawFrame,
    SchemaError,
    check_frame,
    frame_to_json,
    member_suffix,
)


def shard_name(number: int) -> str:
    """File name of a dataset's shard: `shard-000042.tar`."""
    return f"shard-{number:06d}.tar"


def write_shards(
    frames: Iterable[RawFrame],
    out_dir: Path,
    *,
    source: str,
    licence: str,
    samples_per_shard: int = 200,
    first_shard: int = 0,
) -> DatasetInfo:
    """Write frames as shards `shard-<number>.tar`, an index beside each, and `dataset.json`.

    Args:
        frames: in the order in which they are to lie in the shards.
        out_dir: made if missing; shards with lower numbers than `first_shard` in it are kept and listed.
        source: what the frames are, for `dataset.json`.
        licence: terms under which they may be used.
        samples_per_shard: frames a shard.
        first_shard: number of the first shard written.

    Raises:
        SchemaError: a frame that is not of the schema.
        ShardError: a frame key that occurs twice, no frames, a directory that already holds these shards.
    """
    if samples_per_shard < 1:
        raise ShardError(f"samples_per_shard: got {samples_per_shard}, expected at least 1")
    out_dir.mkdir(parents=True, exist_ok=True)
    kept = sorted(out_dir.glob("*.tar"))
    if any(tar.name >= shard_name(first_shard) for tar in kept):
        raise ShardError(f"{out_dir}: holds {kept[-1].name} already; name an empty directory or remove its shards")
    seen = {key for tar in kept for key in read_index(tar).table.keys}
    write_dataset_file(out_dir, DatasetInfo(source=source, licence=licence, complete=False))
    remaining, number = iter(frames), first_shard
    while chunk := list(islice(remaining, samples_per_shard)):
        for frame in chunk:
            if frame.key in seen:
                raise ShardError(f"{out_dir}: frame {frame.key} occurs twice; keys are unique within a dataset")
            seen.add(frame.key)
        write_shard(chunk, out_dir / shard_name(number))
        number += 1
    return finish_dataset(out_dir, source=source, licence=licence)


def write_shard(frames: Iterable[RawFrame | LeftOut], tar: Path) -> ShardInfo:
    """Write one shard and its index; the tar appears whole, with modification times and owners zero.

    The index is made from the bytes written, so a shard that has one was readable to its end. Rows that are left out
    are listed in it.

    Raises:
        SchemaError: a frame that is not of the schema.
        ShardError: a key that occurs twice in the shard.
    """
    index_path(tar).unlink(missing_ok=True)
    left_out: list[LeftOut] = []
    write_tar(_samples(frames, tar, left_out), tar)
    write_index(tar, index_shard(tar), left_out=left_out)
    return shard_info(tar)


def write_tar(samples: Iterable[tuple[str, Mapping[str, bytes]]], tar: Path) -> None:
    """Write keys with their members as a tar that appears whole, with modification times and owners zero."""
    from webdataset import TarWriter  # brings torch, which looking at shards does without

    with atomic_file(tar) as file, TarWriter(file, user="", group="", mtime=0, encoder=False, compress=False) as writer:
        for key, sample in samples:
            writer.write({"__key__": key, **sample})


def finish_dataset(out_dir: Path, *, source: str, licence: str, build: dict[str, object] | None = None) -> DatasetInfo:
    """Write `dataset.json` over all shards of a directory.

    Raises:
        ShardError: no shards, or a frame that is in two of them.
    """
    tars = sorted(out_dir.glob("*.tar"))
    if not tars:
        raise ShardError(f"{out_dir}: no frame to write; check the annotations, the scenes and the split asked for")
    hashes = [key_hashes(read_index(tar).table) for tar in tars]
    check_unique(out_dir, hashes, lambda: (read_index(tar).table for tar in tars))
    shards = [shard_info(tar) for tar in tars]
    info = DatasetInfo(
        source=source,
        licence=licence,
        shards=tuple(shards),
        build=build or {},
        left_out=sum(len(item.lines) for item in rows_left_out(out_dir)),
    )
    write_dataset_file(out_dir, info)
    return info


def rows_left_out(out_dir: Path) -> list[LeftOut]:
    """The rows that the shards of a directory left out, shard by shard.

    Raises:
        ShardError: an index that does not parse.
    """
    return [item for tar in sorted(out_dir.glob("*.tar")) for item in read_index(tar).left_out]


def _samples(
    frames: Iterable[RawFrame | LeftOut], tar: Path, left_out: list[LeftOut]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    seen: set[str] = set()
    for frame in frames:
        if isinstance(frame, LeftOut):
            left_out.append(frame)
            continue
        check_frame(frame)
        if frame.key in seen:
            raise ShardError(f"{tar}: frame {frame.key} occurs twice; keys are unique within a dataset")
        seen.add(frame.key)
        images = {member_suffix(name): data for name, data in frame.images.items()}
        members = {**images, "json": frame_to_json(frame)}
        _check_sizes(frame.key, members)
        yield frame.key, members


def _check_sizes(key: str, members: Mapping[str, bytes]) -> None:
    """Refuse what would not be read."""
    for suffix, data in members.items():
        most = MAX_RECORD_BYTES if suffix == "json" else MAX_IMAGE_BYTES
        if len(data) > most:
            raise SchemaError(f"{key}: member {suffix!r}: got {len(data)} bytes, expected at most {most}")
