"""Tensors by name in, safetensors files (one, or shards with an index) out; and such files in, single tensors out.

Both sides hold no more than one tensor in memory. A header stands before the tensors it describes, so those of a
shard are gathered in an unnamed file, and copied behind it when the shard is full. Files are read with plain reads, not
mapped: pages of a mapped file would count as memory of the process.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import torch

from models.safetensors_format import (
    DTYPE_NAMES,
    TensorEntry,
    WeightsFileError,
    file_layout,
    parse_json,
    read_header,
    read_values,
    some,
)

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_COPIED_BYTES = 1 << 24


class ShardedWriter:
    """Writes tensors in the order they come, a shard at a time; the directory shows weights only after `close`.

    As a context manager it closes at the end, and after an exception removes what it has written.
    """

    def __init__(self, directory: Path, *, max_shard_bytes: int = 1_000_000_000) -> None:
        """Make `directory` if it is missing.

        Raises:
            WeightsFileError: the directory already holds weights.
        """
        taken = [name for name in (SINGLE_FILE, INDEX_FILE) if (directory / name).exists()]
        if taken:
            raise WeightsFileError(f"{directory / taken[0]}: got a file, expected none; choose another directory")
        self._made_directory = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._limit = max_shard_bytes
        self._gathered: IO[bytes] | None = None
        self._shard: dict[str, TensorEntry] = {}
        self._shard_bytes = 0
        self._total_bytes = 0
        self._shard_of: dict[str, int] = {}
        self._parts: list[Path] = []
        self._closed = False

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write `tensor`, from any device, to the disk; the shard before it is closed if it would pass the limit.

        Raises:
            WeightsFileError: a name that was added before, or a type that safetensors lacks.
        """
        assert not self._closed, "the writer is closed"
        where = f"{self._directory}: tensor {name!r}"
        if name in self._shard_of:
            raise WeightsFileError(f"{where}: got it twice, expected each name once; leave one out")
        if tensor.dtype not in DTYPE_NAMES:
            known = ", ".join(str(dtype) for dtype in DTYPE_NAMES)
            raise WeightsFileError(f"{where}: got type {tensor.dtype}, expected one of {known}; convert it first")
        size = tensor.numel() * tensor.element_size()
        if self._shard and self._shard_bytes + size > self._limit:
            self._write_shard()
        self._shard_of[name] = len(self._parts)
        if self._gathered is None:
            self._gathered = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115
        self._gathered.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self._shard[name] = TensorEntry(
            file=self._directory, start=self._shard_bytes, size=size, dtype=tensor.dtype, shape=tuple(tensor.shape)
        )
        self._shard_bytes += size
        self._total_bytes += size

    def close(self) -> None:
        """Write the last shard and give all files their names, the index last.

        Raises:
            WeightsFileError: nothing was added.
        """
        assert not self._closed, "the writer is closed"
        if not self._shard:
            raise WeightsFileError(f"{self._directory}: got no tensors, expected at least one")
        self._write_shard()
        count = len(self._parts)
        names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        if count == 1:
            names = [SINGLE_FILE]
        for i, name in enumerate(names):
            self._parts[i] = self._parts[i].rename(self._directory / name)
        if count > 1:
            weight_map = {tensor: names[part] for tensor, part in self._shard_of.items()}
            index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
            partial = self._directory / f".{INDEX_FILE}.{os.getpid()}.partial"
            self._parts.append(partial)
            _write_synced(partial, [json.dumps(index, indent=2).encode()])
            self._parts[-1] = partial.rename(self._directory / INDEX_FILE)
        self._closed = True

    def discard(self) -> None:
        """Remove all files written so far, and the directory if the writer made it and nothing else is in it."""
        self._close_gathered()
        self._closed = True
        for part in self._parts:
            part.unlink(missing_ok=True)
        if self._made_directory and self._directory.is_dir() and not any(self._directory.iterdir()):
            self._directory.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            if kind is not None or not self._closed:
                self.discard()

    def _write_shard(self) -> None:
        path = self._directory / f".model-{len(self._parts) + 1:05d}.{os.getpid()}.partial"
        self._parts.append(path)
        _write_synced(path, self._blocks())
        self._close_gathered()
        self._shard.clear()
        self._shard_bytes = 0

    def _blocks(self) -> Iterator[bytes]:
        """The bytes of a shard: its header, then the gathered tensors in the header's order."""
        header, names = file_layout({name: (entry.dtype, entry.shape) for name, entry in self._shard.items()})
        yield header
        assert self._gathered is not None, "a shard has at least one tensor"
        for entry in map(self._shard.__getitem__, names):
            self._gathered.seek(entry.start)
            for done in range(0, entry.size, _COPIED_BYTES):
                yield self._gathered.read(min(_COPIED_BYTES, entry.size - done))

    def _close_gathered(self) -> None:
        if self._gathered is not None:
            self._gathered.close()
            self._gathered = None


class ShardedReader:
    """Tensors of a safetensors file or of a directory of them; only headers are read until a tensor is asked for."""

    def __init__(self, path: Path) -> None:
        """Read the headers of `path`: a file, or a directory with model.safetensors or with an index.

        Raises:
            WeightsFileError: no weights there, a damaged or truncated file, or an index that the shards do not fit.
        """
        self.path = path
        if path.is_file():
            self._entries = read_header(path)
        elif (path / SINGLE_FILE).is_file():
            self._entries = read_header(path / SINGLE_FILE)
        elif (path / INDEX_FILE).is_file():
            self._entries = _read_shards(path / INDEX_FILE)
        else:
            raise WeightsFileError(
                f"{path}: got no safetensors, expected a .safetensors file or a directory with {SINGLE_FILE} or "
                f"{INDEX_FILE}; check the path"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors, in the order of the headers."""
        return tuple(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor, from the header."""
        return self._entry(name).dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor, and no other bytes, into memory of its own.

        Raises:
            WeightsFileError: no such tensor, or the file was cut since its header was read.
        """
        entry = self._entry(name)
        return read_values(entry, 0, math.prod(entry.shape)).reshape(entry.shape)

    def _entry(self, name: str) -> TensorEntry:
        if name not in self._entries:
            raise WeightsFileError(f"{self.path}: got no tensor {name!r}, expected one of {some(self._entries)}")
        return self._entries[name]


def _read_shards(index: Path) -> dict[str, TensorEntry]:
    """Entries of all shards in the order of the index's map; everything wrong with the index is reported at once."""
    content = parse_json(index, index.read_bytes())
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise WeightsFileError(f"{index}: field 'weight_map': got {weight_map!r:.80}, expected tensor names to files")
    problems: list[str] = []
    held: dict[str, dict[str, TensorEntry]] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard:
            problems.append(f"shard {shard!r}: expected the name of a file beside the index")
        elif not (index.parent / shard).is_file():
            problems.append(f"shard {shard!r} is missing; copy it again")
        else:
            held[shard] = read_header(index.parent / shard)
    absent = [f"{name!r} in {shard}" for name, shard in weight_map.items() if shard in held and name not in held[shard]]
    if absent:
        problems.append(f"tensors that are not where the index says: {some(absent)}")
    shards_of: dict[str, list[str]] = {}
    for shard, entries in held.items():
        for name in entries:
            shards_of.setdefault(name, []).append(shard)
    twice = [f"{name!r} in {' and '.join(shards)}" for name, shards in shards_of.items() if len(shards) > 1]
    if twice:
        problems.append(f"tensors in two shards, expected each once: {some(twice)}")
    unlisted = [name for name in shards_of if name not in weight_map]
    if unlisted:
        problems.append(f"tensors in the shards that the index does not name: {some(unlisted)}")
    if problems:
        raise WeightsFileError(f"{index}: {'; '.join(problems)}")
    return {name: held[shard][name] for name, shard in weight_map.items()}


def _write_synced(path: Path, blocks: Iterable[bytes | memoryview]) -> None:
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
