"""A recipe in, its stage out."""

from collections.abc import Callable

import torch

from trainer.recipe import Recipe
from trainer.stages.align import AlignStage
from trainer.stages.base import Stage
from trainer.stages.distill import DistillStage
from trainer.stages.finetune import FinetuneStage


def make_stage(recipe: Recipe, dtype: torch.dtype, *, loaded: bool = True) -> Stage:
    """Build the recipe's stage with its models.

    Args:
        recipe: says which.
        dtype: what DeepSpeed trains in.
        loaded: load all weights whole into this process; otherwise `Stage.load` is left to the caller.

    Raises:
        StageError, ModelError: a model that is missing or does not fit.
    """
    stages: dict[str, Callable[[Recipe, torch.dtype], Stage]] = {
        "distill": DistillStage,
        "align": AlignStage,
        "finetune": FinetuneStage,
    }
    stage = stages[recipe.stage](recipe, dtype)
    if loaded:
        stage.load()
    return stage
