"""`dataset.json` of a shard directory: where the frames come from, which shards there are, whether writing finished."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_shards.atomic import write_atomically
from data_shards.entries import ShardError

DATASET_FILE = "dataset.json"


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard of a dataset; `name` is the tar's file name, `bytes` its size."""

    name: str
    samples: int
    questions: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a shard directory as a whole.

    Attributes:
        source: `drivelm`, `synthetic`, ...
        licence: terms under which the frames may be used.
        shards: all shards in order; empty while writing goes on.
        complete: False from the beginning of writing to its end.
        build: the arguments that made the frames, so that a restart goes on with the same ones only.
    """

    source: str
    licence: str
    shards: tuple[ShardInfo, ...] = ()
    complete: bool = True
    build: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def num_questions(self) -> int:
        return sum(shard.questions for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)


def write_dataset_file(directory: Path, info: DatasetInfo) -> None:
    """Write `dataset.json`, whole or not at all."""
    write_atomically(directory / DATASET_FILE, json.dumps(asdict(info), indent=1).encode())


def read_dataset_file(directory: Path) -> DatasetInfo | None:
    """`dataset.json` of a directory, or None where there is none.

    Raises:
        ShardError: the file does not parse or lacks a field.
    """
    path = directory / DATASET_FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        shards = tuple(ShardInfo(**shard) for shard in record.pop("shards"))
        info = DatasetInfo(shards=shards, **record)
        if any(not isinstance(shard.name, str) or Path(shard.name).name != shard.name for shard in shards):
            raise ValueError("field 'shards': expected plain file names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            f"{path}: not a usable dataset file ({error}); remove it and run `python -m data_shards index {directory}`"
        ) from error
    return info


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
        raise ShardError(
            f"{directory / DATASET_FILE}: field 'complete': got false, expected true: writing these shards was cut "
            "short; run the command that writes them again, it goes on where it stopped"
        )
    listed = [directory / shard.name for shard in info.shards]
    _check_names(directory, listed, found)
    return listed


def _no_shards(directory: Path) -> ShardError:
    split = next((name for name in ("train", "val") if (directory / name / DATASET_FILE).is_file()), None)
    if split:
        return ShardError(f"{directory}: holds no *.tar itself; name one of its splits, such as {directory / split}")
    what = "holds no *.tar" if directory.is_dir() else "does not exist"
    return ShardError(
        f"{directory}: the shard directory {what}; correct the path, or write shards with "
        f"`python -m data_shards synthetic|drivelm --out {directory} ...`"
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
