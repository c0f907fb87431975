"""A recipe and its teacher in, the run's own codebook out, fitted on patch features of the first tiles of the plan.

Shape suffixes: F features, E width of the teacher.
"""

from collections.abc import Iterable

import torch

from data_shards.collate import Batch
from trainer.codebook import CodebookRecord, StoredCodebook, fit_codebook, read_codebook
from trainer.hashes import view_sha256
from trainer.recipe import Recipe
from trainer.stages.base import Preparation
from trainer.stages.frozen import FrozenPart, patch_sample
from trainer.stages.sources import StageError

CODEBOOK_FILE = "codebook.safetensors"


def own_codebook(
    recipe: Recipe, tower: FrozenPart, preparation: Preparation, teacher_sha256: str, patch_size: int
) -> StoredCodebook:
    """A run's own codebook, fitted where the run has none yet; called on all ranks.

    Args:
        recipe: of the run.
        tower: the teacher's, loaded.
        preparation: what there is before the first step.
        teacher_sha256, patch_size: of the teacher.

    Raises:
        StageError: fewer patches than codebook entries.
        CodebookError: the run's file is damaged, or of another teacher.
    """
    path = preparation.run_dir / CODEBOOK_FILE
    if not preparation.ranks.on_main(path.is_file):
        features_FE = codebook_features(recipe, tower, preparation.first_batches(), preparation.device)
        record = codebook_record(recipe, teacher_sha256, patch_size)
        preparation.ranks.on_main(lambda: fit_codebook(features_FE, record, path, preparation.device))
    stored = read_codebook(path)
    stored.check({"teacher_sha256": teacher_sha256})
    return stored


def codebook_features(
    recipe: Recipe, tower: FrozenPart, batches: Iterable[Batch], device: torch.device
) -> torch.Tensor:
    """What a codebook is fitted on: patch features of the first tiles, float32 [F, E] on the CPU.

    Raises:
        StageError: fewer patches than codebook entries.
    """
    settings = recipe.distill
    features_FE = patch_sample(tower, batches, settings.codebook_tiles, device)
    if len(features_FE) < settings.codebook_size:
        raise StageError(
            f"distill.codebook_size: got {settings.codebook_size}, more than the {len(features_FE)} patches of "
            f"{settings.codebook_tiles} tiles; lower it or raise distill.codebook_tiles"
        )
    return features_FE


def codebook_record(recipe: Recipe, teacher_sha256: str, patch_size: int) -> CodebookRecord:
    """The record of a codebook that is fitted as the recipe says."""
    return CodebookRecord(
        teacher_sha256=teacher_sha256,
        preprocessing_sha256=view_sha256(recipe.data.view),
        tile_size=recipe.data.view.tile_size,
        patch_size=patch_size,
        entries=recipe.distill.codebook_size,
        iterations=recipe.distill.codebook_iterations,
        seed=recipe.seed,
        tiles=recipe.distill.codebook_tiles,
    )
