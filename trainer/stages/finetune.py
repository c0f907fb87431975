"""Stage 2: the whole model that stage 1 wrote in; everything is trained on general and driving questions."""

from pathlib import Path

import torch

from models.presets import VLM_PRESETS
from trainer.recipe import Recipe
from trainer.stages.sources import model_directory, points_note, tokenizer_from, vlm_from
from trainer.stages.towers import set_drop_path
from trainer.stages.vlm import VlmStage


class FinetuneStage(VlmStage):
    """Every parameter is trained."""

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        """Take the model; its directory holds the tokenizer, unless the recipe names another.

        Raises:
            StageError: no model or tokenizer there.
        """
        init = recipe.model
        assert init.vlm is not None
        fresh = init.vlm in VLM_PRESETS
        directory = init.vlm if fresh else str(model_directory("model.vlm", init.vlm, VLM_PRESETS))
        own = (Path(directory) / "tokenizer.json").is_file()
        tokenizer = tokenizer_from("model.tokenizer", directory if own else init.tokenizer or directory)
        generator = torch.Generator().manual_seed(recipe.seed)
        blank = vlm_from("model.vlm", directory, tokenizer, generator, init.projector)
        self._drop_path = set_drop_path(blank.model.model.vision_tower, init.drop_path)
        self._points = points_note("model.vlm", directory, recipe.data.coordinates)
        super().__init__(recipe, blank, tokenizer, dtype, frozen={})

    def notes(self) -> tuple[str, ...]:
        return (*super().notes(), *self._drop_path, *self._points)
