"""Configurations or directories in; towers, language models and whole models out, all of stock transformers classes."""

from pathlib import Path

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    InternVLVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from models.blanks import (
    drawn_language,
    drawn_vision,
    drawn_vlm,
    joined_vlm,
    stored_language,
    stored_vision,
    stored_vlm,
)
from models.loading import Blank, HeldWeights, fill


def build_vision(config: InternVLVisionConfig, generator: torch.Generator) -> InternVLVisionModel:
    """A tower with fresh weights drawn from `generator`."""
    return fill(drawn_vision(config, generator))


def build_language(config: LlamaConfig, generator: torch.Generator) -> LlamaForCausalLM:
    """A language model with fresh weights drawn from `generator`."""
    return fill(drawn_language(config, generator))


def build_vlm(
    config: InternVLConfig, generator: torch.Generator, *, projector: str = "mlp"
) -> InternVLForConditionalGeneration:
    """A whole model with fresh weights drawn from `generator`; see `models.presets` for configurations."""
    return fill(drawn_vlm(config, generator, projector=projector))


def join_vlm(
    vision: InternVLVisionModel,
    language: LlamaForCausalLM,
    *,
    image_token_id: int,
    generator: torch.Generator,
    projector: str = "mlp",
) -> InternVLForConditionalGeneration:
    """A whole model from a trained tower and a trained language model, with a fresh projector. Weights are copied."""
    held = Blank(vision, HeldWeights(vision)), Blank(language, HeldWeights(language))
    return fill(joined_vlm(*held, image_token_id=image_token_id, generator=generator, projector=projector))


def load_vision(path: Path, dtype: torch.dtype = torch.float32) -> InternVLVisionModel:
    """A tower from a directory of `save_model`, or the tower of a whole model from such a directory.

    Raises:
        ModelError: no such model there, or weights that do not fit its configuration.
    """
    return fill(stored_vision(path), dtype).eval()


def load_language(path: Path, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A language model from a directory of `save_model`.

    Raises:
        ModelError: no such model there, or weights that do not fit its configuration.
    """
    return fill(stored_language(path), dtype).eval()


def load_vlm(path: Path, dtype: torch.dtype = torch.float32) -> InternVLForConditionalGeneration:
    """A whole model, with either projector, from a directory of `save_model` or `trainer.export`.

    Raises:
        ModelError: no such model there, or weights that do not fit its configuration.
    """
    return fill(stored_vlm(path), dtype).eval()


def tile_side(vlm: InternVLForConditionalGeneration) -> int:
    """Side in pixels of the tiles the model was made for."""
    return vlm.model.vision_tower.config.image_size[0]
