"""The safetensors format: a file in, where each tensor's bytes lie out; and tensors in, the bytes of a file out.

Eight bytes of header length, a JSON header of names, types, shapes and byte ranges, then the tensors' bytes without
gaps (https://huggingface.co/docs/safetensors, "Format").
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

DTYPE_NAMES = MappingProxyType(
    {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2: "F8_E5M2",
    }
)
"""Types that can be stored, with their names in the header."""

_DTYPES = MappingProxyType({name: dtype for dtype, name in DTYPE_NAMES.items()})
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_SHOWN = 20


class WeightsFileError(ValueError):
    """Weights that cannot be written or read; the message names file, got, expected and fix."""


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where a tensor's bytes lie: file, first byte, number of bytes, type and shape."""

    file: Path
    start: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def file_blocks(tensors: Mapping[str, torch.Tensor]) -> list[bytes | memoryview]:
    """The bytes of a file that holds these contiguous CPU tensors: its header, then views of the tensors' memory."""
    header, names = file_layout({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    return [header, *(tensors[name].reshape(-1).view(torch.uint8).numpy().data for name in names)]


def file_layout(kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> tuple[bytes, list[str]]:
    """What stands before the tensors of these types and shapes in a file, and their names in the order to be written.

    Wide types come first: each tensor then starts at a multiple of its element size, which mapped reads rely on.
    """
    ordered = sorted(kinds, key=lambda name: -kinds[name][0].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in ordered:
        dtype, shape = kinds[name]
        end = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, ordered


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Where the tensors of a safetensors file lie, in the order of its header.

    Raises:
        WeightsFileError: a header that does not parse, or byte ranges that leave gaps, overlap or end elsewhere than
            the file.
    """
    actual = file.stat().st_size
    truncated = "the file is truncated or no safetensors file, copy it again"
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if actual < _LENGTH_BYTES or length > min(actual - _LENGTH_BYTES, _MAX_HEADER_BYTES):
            raise WeightsFileError(f"{file}: got {actual} bytes, expected a header of {length} bytes; {truncated}")
        header = parse_json(file, stream.read(length))
    header.pop("__metadata__", None)
    base = _LENGTH_BYTES + length
    entries = {name: _entry_of(file, base, name, fields) for name, fields in header.items()}
    expected = base
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.size)):
        if entry.start != expected:
            raise WeightsFileError(f"{file}: got a tensor at byte {entry.start}, expected {expected}; {truncated}")
        expected += entry.size
    if actual != expected:
        raise WeightsFileError(f"{file}: got {actual} bytes, expected {expected}; {truncated}")
    return entries


def read_values(entry: TensorEntry, first: int, count: int) -> torch.Tensor:
    """Values [first, first + count) of a tensor, flattened; no other bytes are read.

    Returns:
        [count], in memory of its own.

    Raises:
        WeightsFileError: the file was cut since its header was read.
    """
    size = count * entry.dtype.itemsize
    data = torch.empty(size, dtype=torch.uint8)
    left = data.numpy().data
    with entry.file.open("rb", buffering=0) as file:
        file.seek(entry.start + first * entry.dtype.itemsize)
        while left:
            got = file.readinto(left)
            if not got:
                raise WeightsFileError(
                    f"{entry.file}: got {size - len(left)} bytes at byte {entry.start}, expected {size}; the file is "
                    "truncated, copy it again"
                )
            left = left[got:]
    return data.view(entry.dtype)


def _entry_of(file: Path, base: int, name: str, fields: Any) -> TensorEntry:
    try:
        dtype, shape, (start, end) = _DTYPES[fields["dtype"]], tuple(fields["shape"]), fields["data_offsets"]
        fits = math.prod(shape) * dtype.itemsize == end - start and min((*shape, start)) >= 0
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise WeightsFileError(
            f"{file}: tensor {name!r}: got {fields!r:.120}, expected 'dtype', 'shape' and the byte range they need"
        )
    return TensorEntry(file=file, start=base + start, size=end - start, dtype=dtype, shape=shape)


def parse_json(file: Path, text: bytes) -> dict[str, Any]:
    """The JSON object `text` of `file`.

    Raises:
        WeightsFileError: it is none, or names a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise WeightsFileError(f"{file}: got {some(twice)} twice, expected each name once; write it again")
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=unique)
    except WeightsFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise WeightsFileError(f"{file}: got no JSON ({error}), expected a JSON object; copy it again") from error
    if not isinstance(content, dict):
        raise WeightsFileError(f"{file}: got JSON that is no object, expected one; copy it again")
    return content


def some(names: Iterable[str]) -> str:
    """The names in one line, shortened with a count of those left out."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
