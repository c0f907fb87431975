"""A rank's fragments of the training state in, tensors of its file out; and any range of any parameter back.

A fragment is a contiguous range of a flattened parameter, or of one of its optimiser states. Its name says which:
`PARAMETER/KEY@START`, or `PARAMETER/KEY` for a number such as Adam's step. So files of any number of ranks, under any
ZeRO stage, hold the same thing, and are read alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from models.safetensors_format import TensorEntry, WeightsFileError, read_header, read_values

MASTER = "fp32"
"""Key of the master weights; the others are the optimiser's own, such as `exp_avg`."""


def fragment_name(parameter: str, key: str, start: int) -> str:
    """Name of values [start, ...) of a flattened parameter."""
    return f"{parameter}/{key}@{start}"


def number_name(parameter: str, key: str) -> str:
    """Name of a single number, such as Adam's step."""
    return f"{parameter}/{key}"


class FragmentReader:
    """Ranges of parameters from the files of all ranks; headers are read file by file, until a range is covered."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Args: files: of all ranks that wrote; those most likely to hold this rank's ranges first."""
        self._unread: Iterator[Path] = iter(files)
        self._fragments: dict[str, dict[str, list[tuple[int, TensorEntry]]]] = {}
        self._numbers: dict[str, dict[str, TensorEntry]] = {}

    def keys(self, parameter: str) -> list[str]:
        """What is stored of a parameter in fragments: `fp32`, and the optimiser's states if it has stepped.

        Raises:
            WeightsFileError: nothing is.
        """
        while parameter not in self._fragments:
            if not self._read_next():
                raise WeightsFileError(f"parameter {parameter!r}: got none in the files of all ranks; expected it")
        return sorted(self._fragments[parameter])

    def numbers(self, parameter: str) -> Mapping[str, float]:
        """Single numbers stored with a parameter, by key; to be asked after `keys`."""
        return {key: float(read_values(entry, 0, 1)) for key, entry in self._numbers.get(parameter, {}).items()}

    def read(self, parameter: str, key: str, start: int, count: int) -> torch.Tensor:
        """Values [start, start + count) of a flattened parameter or of its state.

        Returns:
            [count], on the CPU, in the type it was stored in.

        Raises:
            WeightsFileError: part of the range is in no file.
        """
        values: torch.Tensor | None = None
        done = start
        while done < start + count:
            first, entry = self._holding(parameter, key, done)
            upto = min(first + entry.shape[0], start + count)
            if values is None:
                values = torch.empty(count, dtype=entry.dtype)
            values[done - start : upto - start] = read_values(entry, done - first, upto - done)
            done = upto
        return torch.empty(0) if values is None else values

    def _holding(self, parameter: str, key: str, place: int) -> tuple[int, TensorEntry]:
        """First value and entry of a fragment that holds the value at `place`."""
        while True:
            for first, entry in self._fragments.get(parameter, {}).get(key, ()):
                if first <= place < first + entry.shape[0]:
                    return first, entry
            if not self._read_next():
                raise WeightsFileError(f"parameter {parameter!r}: value {place} of {key} is in no rank's file")

    def _read_next(self) -> bool:
        file = next(self._unread, None)
        if file is None:
            return False
        for name, entry in read_header(file).items():
            parameter, _, rest = name.rpartition("/")
            key, ranged, start = rest.partition("@")
            if ranged:
                self._fragments.setdefault(parameter, {}).setdefault(key, []).append((int(start), entry))
            else:
                self._numbers.setdefault(parameter, {})[key] = entry
        return True
