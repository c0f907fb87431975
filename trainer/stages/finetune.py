"""Stage 2: the whole model that stage 1 wrote in; everything is trained on general and driving questions."""

from pathlib import Path

import torch

from models.blanks import stored_vlm
from models.vision import add_drop_path
from trainer.recipe import Recipe
from trainer.stages.sources import model_directory, tokenizer_from
from trainer.stages.vlm import VlmStage


class FinetuneStage(VlmStage):
    """Every parameter is trained."""

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        """Load the model; its directory holds the tokenizer, unless the recipe names another.

        Raises:
            StageError: no model or tokenizer there.
        """
        init = recipe.model
        assert init.vlm is not None
        directory = model_directory("model.vlm", init.vlm)
        own = (Path(directory) / "tokenizer.json").is_file()
        tokenizer = tokenizer_from("model.tokenizer", str(directory) if own else init.tokenizer or str(directory))
        blank = stored_vlm(directory)
        add_drop_path(blank.model.model.vision_tower, init.drop_path)
        super().__init__(recipe, blank, tokenizer, dtype, frozen={})
