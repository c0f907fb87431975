"""Patch features of a teacher in, a codebook file out, with the record of what it was fitted on; and back, checked.

Shape suffixes: V codebook entries, E width of the teacher, F features.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from data_shards.atomic import write_atomically
from models.distill_heads import spherical_kmeans
from trainer.hashes import view_sha256
from trainer.recipe import Recipe
from trainer.tensor_cores import full_precision

_METADATA = "codebook"
_CPU = torch.device("cpu")


class CodebookError(ValueError):
    """A codebook that cannot be used; the message names the file, got, expected and fix."""


@dataclass(frozen=True, kw_only=True)
class CodebookRecord:
    """What a codebook was fitted on, and how.

    Attributes:
        teacher_sha256: of the files of the teacher's weights.
        preprocessing_sha256: of how it saw its tiles, as `trainer.hashes.view_sha256`.
        tile_size, patch_size: in pixels.
        entries, iterations, seed: of the spherical k-means.
        tiles: whose patches it was fitted on.
    """

    teacher_sha256: str
    preprocessing_sha256: str
    tile_size: int
    patch_size: int
    entries: int
    iterations: int
    seed: int
    tiles: int


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredCodebook:
    """A codebook file.

    Attributes:
        prototypes: unit vectors, float32 [V, E].
        record: how they were made.
        sha256: of the file.
    """

    path: Path
    prototypes: torch.Tensor
    record: CodebookRecord
    sha256: str

    @property
    def files(self) -> tuple[Path, ...]:
        """The one it is read from."""
        return (self.path,)

    @property
    def width(self) -> int:
        """Of the teacher."""
        return self.prototypes.shape[1]

    def check(self, expected: Mapping[str, object]) -> None:
        """Compare fields of the record with what they have to be.

        Raises:
            CodebookError: one of them differs; the message has both values.
        """
        own = asdict(self.record)
        wrong = [f"field {name!r}: got {own[name]}, expected {value}" for name, value in expected.items()]
        wrong = [line for line, (name, value) in zip(wrong, expected.items(), strict=True) if own[name] != value]
        if wrong:
            raise CodebookError(
                f"{self.path}: {'; '.join(wrong)}: the codebook is of another teacher, view or size than this recipe; "
                "put the former ones back, or fit another with `python -m data_shards teacher-targets --fit-codebook`"
            )


def given_codebook(recipe: Recipe) -> StoredCodebook:
    """The file that the recipe names.

    Raises:
        CodebookError: it is no codebook, or of another view or size.
    """
    assert recipe.distill.codebook is not None, "load_recipe checks what a stage needs"
    stored = read_codebook(recipe.distill.codebook)
    stored.check({"preprocessing_sha256": view_sha256(recipe.data.view), "entries": recipe.distill.codebook_size})
    return stored


@torch.no_grad()
def fit_codebook(features_FE: torch.Tensor, record: CodebookRecord, path: Path, device: torch.device = _CPU) -> None:
    """Spherical k-means over a teacher's patch features; the file is written whole or not at all.

    Args:
        features_FE: float32.
        device: where the means are computed; it needs twice the features' memory there, and draws its own numbers.
    """
    generator = torch.Generator(device).manual_seed(record.seed)
    with full_precision():
        prototypes = spherical_kmeans(features_FE.to(device), record.entries, record.iterations, generator).cpu()
    metadata = {_METADATA: json.dumps(asdict(record))}  # one entry: safetensors does not keep the order of several
    write_atomically(path, save({"prototypes": prototypes.contiguous()}, metadata))


def read_codebook(path: Path) -> StoredCodebook:
    """A codebook file.

    Raises:
        CodebookError: it is missing, damaged, or no codebook.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = CodebookRecord(**json.loads((file.metadata() or {})[_METADATA]))
            prototypes = file.get_tensor("prototypes")
        if prototypes.ndim != 2 or len(prototypes) != record.entries:
            raise ValueError(f"got prototypes {list(prototypes.shape)}, expected {record.entries} rows")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CodebookError(
            f"{path}: not a codebook ({error!r}); fit one with `python -m data_shards teacher-targets --fit-codebook`"
        ) from error
    return StoredCodebook(
        path=path, prototypes=prototypes, record=record, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
    )
