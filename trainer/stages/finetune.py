"""Stage 2: the whole model that stage 1 wrote in; everything is trained on general and driving questions."""

from pathlib import Path

from models.vision import add_drop_path
from models.vlm import load_vlm
from trainer.recipe import Recipe
from trainer.stages.sources import model_directory, tokenizer_from
from trainer.stages.vlm import VlmStage


class FinetuneStage(VlmStage):
    """Every parameter is trained."""

    def __init__(self, recipe: Recipe) -> None:
        """Load the model; its directory holds the tokenizer, unless the recipe names another.

        Raises:
            StageError: no model or tokenizer there.
        """
        init = recipe.model
        assert init.vlm is not None
        directory = model_directory("model.vlm", init.vlm)
        own = (Path(directory) / "tokenizer.json").is_file()
        tokenizer = tokenizer_from("model.tokenizer", str(directory) if own else init.tokenizer or str(directory))
        vlm = load_vlm(directory)
        add_drop_path(vlm.model.vision_tower, init.drop_path)
        super().__init__(recipe, vlm.requires_grad_(True), tokenizer)
