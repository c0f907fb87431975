"""`dataset.json` of a shard directory: where the frames come from, which shards there are, whether writing finished.

It begins with a checksum of its own bytes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_shards.atomic import write_atomically
from data_shards.checked_json import CHECKSUM_FIELD, dump_checked, load_checked
from data_shards.entries import ShardError

DATASET_FILE = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard of a dataset.

    Attributes:
        name: the tar's file name.
        samples, questions: counts.
        bytes, sha256: size and checksum of the tar.
    """

    name: str
    samples: int
    questions: int
    bytes: int
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a shard directory as a whole.

    Attributes:
        source: `drivelm`, `synthetic`, ...
        licence: terms under which the frames may be used.
        shards: all shards in order; empty while writing goes on.
        complete: False from the beginning of writing to its end.
        build: the arguments that made the frames, so that a restart goes on with the same ones only.
        left_out: rows of the source that could not be used.
    """

    source: str
    licence: str
    shards: tuple[ShardInfo, ...] = ()
    complete: bool = True
    build: Mapping[str, Any] = field(default_factory=dict)
    left_out: int = 0

    @property
    def num_samples(self) -> int:
        """Of all shards; 0 while writing goes on."""
        return sum(shard.samples for shard in self.shards)

    @property
    def num_questions(self) -> int:
        """Of all shards."""
        return sum(shard.questions for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        """Of all tars."""
        return sum(shard.bytes for shard in self.shards)


def write_dataset_file(directory: Path, info: DatasetInfo) -> None:
    """Write `dataset.json`, whole or not at all."""
    write_atomically(directory / DATASET_FILE, dump_checked(asdict(info), indent=1))


def read_dataset_file(directory: Path) -> DatasetInfo | None:
    """`dataset.json` of a directory, or None where there is none.

    Raises:
        ShardError: the file does not parse, was altered, or lacks a field.
    """
    path = directory / DATASET_FILE
    if not path.is_file():
        return None
    try:
        record = _parse(path.read_bytes())
        shards = tuple(ShardInfo(**shard) for shard in record.pop("shards"))
        info = DatasetInfo(shards=shards, **record)
        if any(not isinstance(shard.name, str) or Path(shard.name).name != shard.name for shard in shards):
            raise ValueError("field 'shards': expected plain file names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            f"{path}: not a usable dataset file ({error}); remove it and run `python -m data_shards index {directory}`"
        ) from error
    return info


def _parse(data: bytes) -> dict[str, Any]:
    record = json.loads(data)
    if isinstance(record, dict) and CHECKSUM_FIELD not in record and "left_out" not in record:
        return record  # of before files had a checksum
    return load_checked(data)[0]


def dataset_shards(directory: Path) -> list[Path]:
    """The tars of a directory, checked against `dataset.json` where there is one.

    Raises:
        ShardError: no tars, a listed shard that is missing, a tar that is not listed, an unfinished dataset.
    """
    found = sorted(directory.glob("*.tar")) if directory.is_dir() else []
    info = read_dataset_file(directory)
    if info is None:
        if not found:
            raise _no_shards(directory)
        return found
    if not info.complete:
        raise unfinished(directory)
    listed = [directory / shard.name for shard in info.shards]
    _check_names(directory, listed, found)
    return listed


def unfinished(directory: Path) -> ShardError:
    """What is said of a directory that misses shards."""
    return ShardError(
        f"{directory / DATASET_FILE}: field 'complete': got false, expected true: writing these shards was cut short; "
        f"run the command that writes them again, it goes on where it stopped; or remove {DATASET_FILE} to use those "
        "that are there"
    )


def _no_shards(directory: Path) -> ShardError:
    split = next((name for name in ("train", "val") if (directory / name / DATASET_FILE).is_file()), None)
    if split:
        return ShardError(f"{directory}: holds no *.tar itself; name one of its splits, such as {directory / split}")
    what = "holds no *.tar" if directory.is_dir() else "does not exist"
    return ShardError(
        f"{directory}: the shard directory {what}; correct the path, or write shards with "
        f"`python -m data_shards synthetic|drivelm|conversations --out {directory} ...`"
    )


def _check_names(directory: Path, listed: Iterable[Path], found: Iterable[Path]) -> None:
    names, there = [tar.name for tar in listed], {tar.name for tar in found}
    missing = [name for name in names if name not in there]
    if missing:
        raise ShardError(
            f"{directory / missing[0]}: listed in {DATASET_FILE}, but missing ({len(missing)} of {len(names)} shards "
            "are); copy it again, or write the shards again"
        )
    unlisted = sorted(there - set(names))
    if unlisted:
        raise ShardError(
            f"{directory / unlisted[0]}: not listed in {DATASET_FILE}; remove it, or take it in with "
            f"`python -m data_shards index {directory}`"
        )
