"""A recipe in, its stage out."""

import torch

from trainer.recipe import Recipe
from trainer.stages.align import AlignStage
from trainer.stages.base import Stage
from trainer.stages.distill import DistillStage
from trainer.stages.finetune import FinetuneStage


def make_stage(recipe: Recipe, dtype: torch.dtype) -> Stage:
    """Build the recipe's stage with its models; `dtype` is what DeepSpeed trains in.

    Raises:
        StageError: a model that is missing or does not fit.
    """
    if recipe.stage == "distill":
        return DistillStage(recipe, dtype)
    return AlignStage(recipe) if recipe.stage == "align" else FinetuneStage(recipe)
