"""The path of a checkpoint in, its configuration and a reader of single tensors out."""

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from models.convert.errors import ConvertError
from models.safetensors_format import parse_json
from models.sharded_safetensors import INDEX_FILE, SINGLE_FILE, ShardedReader

BIN_FILE = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"

_LOAD_ERRORS: tuple[type[Exception], ...] = (
    torch.serialization.pickle.PickleError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
)
"""What torch's unpickler was seen to raise, or may, for bytes that are no pickle of tensors."""


class TensorReader(Protocol):
    """What the converter asks of a checkpoint; `ShardedReader` and `BinReader` answer."""

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape, without reading the tensor."""

    def dtype(self, name: str) -> torch.dtype:
        """Type, without reading the tensor."""

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor."""


class BinReader:
    """Tensors of `torch.save` files, unpickled with `weights_only`.

    A file is mapped anew for each tensor, so that the memory of those before is given back. Files from before torch 1.6
    are no zip archives and cannot be mapped: they are held whole.
    """

    def __init__(self, files: list[Path]) -> None:
        """Read names, shapes and types of all files.

        Raises:
            ConvertError: a file that torch does not load as tensors by name, or a tensor in two files.
        """
        self._files: dict[str, Path] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        for file in files:
            mapped = zipfile.is_zipfile(file)
            for name, tensor in _load_bin(file).items():
                if name in self._tensors:
                    raise ConvertError(f"{file}: tensor {name!r}: got it in two files, expected each once")
                self._files[name] = file
                self._tensors[name] = tensor.to("meta") if mapped else tensor

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        """Type of a tensor."""
        return self._tensors[name].dtype

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor into memory of its own."""
        known = self._tensors[name]
        return _load_bin(self._files[name])[name].clone() if known.is_meta else known


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened checkpoint: the directory it lies in, its config.json and its tensors."""

    directory: Path
    config: Mapping[str, Any]
    reader: TensorReader

    @property
    def config_file(self) -> Path:
        """The file the configuration comes from."""
        return self.directory / "config.json"


def open_source(path: Path, *, allow_pickle: bool = False) -> Source:
    """Open a safetensors file, a directory of them, or with `allow_pickle` the same of `.bin` files.

    Raises:
        ConvertError: nothing there, no config.json beside the weights, or `.bin` files without `allow_pickle`.
        WeightsFileError: weights that are damaged.
    """
    if not path.exists():
        raise ConvertError(f"{path}: no such file or directory, expected a checkpoint; check the path")
    directory = path if path.is_dir() else path.parent
    file = directory / "config.json"
    if not file.is_file():
        raise ConvertError(f"{file}: no such file, expected the model's configuration; copy it beside the weights")
    config = parse_json(file, file.read_bytes())
    bins = _bin_files(path)
    if not bins:
        return Source(directory=directory, config=config, reader=ShardedReader(path))
    if not allow_pickle:
        raise ConvertError(
            f"{bins[0]}: got pickled weights, expected safetensors; a pickle can hold more than numbers: "
            "pass --allow-pickle if you trust where it comes from"
        )
    return Source(directory=directory, config=config, reader=BinReader(bins))


def _bin_files(path: Path) -> list[Path]:
    """The `.bin` files to read, none where there are safetensors."""
    if path.is_file():
        return [path] if path.suffix in (".bin", ".pt", ".pth") else []
    if any((path / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        return []
    if (path / BIN_FILE).is_file():
        return [path / BIN_FILE]
    index = path / BIN_INDEX
    if not index.is_file():
        return []
    weight_map = parse_json(index, index.read_bytes()).get("weight_map")
    shards = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
    wrong = [name for name in shards if Path(name).name != name or not (path / name).is_file()]
    if wrong or not shards:
        raise ConvertError(f"{index}: field 'weight_map': got {wrong or 'no files'}, expected files beside the index")
    return [path / name for name in shards]


def _load_bin(file: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except _LOAD_ERRORS as error:
        text = " ".join(str(error).split())
        raise ConvertError(f"{file}: torch.load with weights_only refuses it: {text:.300}; use safetensors") from error
    if not isinstance(content, dict) or not all(map(_is_plain, content.keys(), content.values())):
        raise ConvertError(
            f"{file}: got something else than plain tensors by name, expected a state dict; use safetensors"
        )
    return content


def _is_plain(name: Any, tensor: Any) -> bool:
    """Whether it is a tensor that has its numbers one after the other, under a name."""
    stored = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_meta
    return stored and isinstance(name, str)
