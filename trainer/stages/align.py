"""Stage 1: a vision tower, a language model and a tokenizer in; only the fresh projector between them is trained."""

from typing import ClassVar

import torch

from data_shards.chat import IMAGE_TOKEN
from models.blanks import joined_vlm
from trainer.recipe import Recipe
from trainer.stages.sources import language_from, tokenizer_from, vision_from
from trainer.stages.vlm import VlmStage


class AlignStage(VlmStage):
    """The projector learns to speak the language model's language; both sides are frozen and in evaluation mode."""

    passes: ClassVar[tuple[int, int, int]] = (1, 3, 2)

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        """Join the parts.

        Raises:
            StageError: a part that is missing, or parts that do not fit together.
        """
        generator = torch.Generator().manual_seed(recipe.seed)
        init = recipe.model
        assert init.vision, "load_recipe checks what a stage needs"
        assert init.language, "load_recipe checks what a stage needs"
        assert init.tokenizer, "load_recipe checks what a stage needs"
        tokenizer = tokenizer_from("model.tokenizer", init.tokenizer)
        vision = vision_from("model.vision", init.vision, generator)
        language = language_from("model.language", init.language, len(tokenizer), generator)
        blank = joined_vlm(
            vision,
            language,
            image_token_id=int(tokenizer.get_vocab()[IMAGE_TOKEN]),
            generator=generator,
            projector=init.projector,
        )
        blank.model.requires_grad_(False)
        blank.model.model.multi_modal_projector.requires_grad_(True)
        frozen = {"model.vision": vision.weights, "model.language": language.weights}
        super().__init__(recipe, blank, tokenizer, dtype, frozen)

    def train_mode(self) -> None:
        self.model.eval()
        self.vlm.model.multi_modal_projector.train()
