"""Configurations, directories and other blanks in; towers, language models and whole models without weights out.

See `models.loading`: a blank knows where its weights come from, costs no memory, and is filled wherever it is needed.
"""

import copy
from pathlib import Path

import torch
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    InternVLVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from models.loading import Blank, RoutedWeights, drawn, model_architectures, stored
from models.presets import vlm_config
from models.projector import LinearProjectorVLM, vlm_class

POSITION_STD = 0.02


def drawn_vision(config: InternVLVisionConfig, generator: torch.Generator) -> Blank[InternVLVisionModel]:
    """A tower with fresh weights; `generator` gives their seed."""

    def build() -> InternVLVisionModel:
        tower = InternVLVisionModel(config)
        _init_embeddings(tower)
        return tower

    return drawn(build, config, generator)


def drawn_language(config: LlamaConfig, generator: torch.Generator) -> Blank[LlamaForCausalLM]:
    """A language model with fresh weights; `generator` gives their seed."""
    return drawn(lambda: LlamaForCausalLM(config), config, generator)


def drawn_vlm(
    config: InternVLConfig, generator: torch.Generator, *, projector: str = "mlp"
) -> Blank[InternVLForConditionalGeneration]:
    """A whole model with fresh weights; `generator` gives their seed."""
    cls = vlm_class(projector)

    def build() -> InternVLForConditionalGeneration:
        vlm = cls(config)
        _init_embeddings(vlm.model.vision_tower)
        return vlm

    return drawn(build, config, generator)


def stored_vision(path: Path) -> Blank[InternVLVisionModel]:
    """A tower of a model directory, or the tower of a whole model in one.

    Raises:
        ModelError: no such model there, or weights that do not fit its configuration.
    """
    if InternVLVisionModel.__name__ in model_architectures(path):
        return stored(InternVLVisionModel, path)
    whole = stored_vlm(path)
    return Blank(whole.model.model.vision_tower, RoutedWeights([("", whole.weights, "model.vision_tower.")]))


def selected_vision(tower: Blank[InternVLVisionModel], layers: int) -> Blank[InternVLVisionModel]:
    """A smaller tower that starts as evenly spaced layers of another, first and last among them, at the same width.

    Raises:
        ValueError: more layers than there are.
    """
    config = copy.deepcopy(tower.model.config)
    chosen = evenly_spaced(config.num_hidden_layers, layers)
    config.num_hidden_layers = layers
    config._name_or_path = ""
    routes = [(f"encoder.layer.{own}.", tower.weights, f"encoder.layer.{its}.") for own, its in enumerate(chosen)]
    blank = drawn_vision(config, torch.Generator().manual_seed(0))
    return Blank(blank.model, RoutedWeights([*routes, ("", tower.weights, "")]))


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` of `total` indices, as evenly spaced as whole numbers allow; both ends are taken, of one the last.

    Raises:
        ValueError: `count` is not 1 to `total`.
    """
    if not 1 <= count <= total:
        raise ValueError(f"layers: got {count}, expected 1 to {total}, the number there are")
    if count == 1:
        return [total - 1]
    return [round(i * (total - 1) / (count - 1)) for i in range(count)]


def stored_language(path: Path) -> Blank[LlamaForCausalLM]:
    """A language model of a model directory.

    Raises:
        ModelError: as `stored_vision`.
    """
    return stored(LlamaForCausalLM, path)


def stored_vlm(path: Path) -> Blank[InternVLForConditionalGeneration]:
    """A whole model, with either projector, of a model directory.

    Raises:
        ModelError: as `stored_vision`.
    """
    linear = LinearProjectorVLM.__name__ in model_architectures(path)
    return stored(LinearProjectorVLM if linear else InternVLForConditionalGeneration, path)


def joined_vlm(
    vision: Blank[InternVLVisionModel],
    language: Blank[LlamaForCausalLM],
    *,
    image_token_id: int,
    generator: torch.Generator,
    projector: str = "mlp",
) -> Blank[InternVLForConditionalGeneration]:
    """A whole model of a tower and a language model, with the projector of a fresh whole model."""
    config = vlm_config(vision.model.config, language.model.config, image_token_id)
    fresh = drawn_vlm(config, generator, projector=projector)
    routes = (
        ("model.vision_tower.", vision.weights, ""),
        ("model.language_model.", language.weights, "model."),
        ("lm_head.", language.weights, "lm_head."),
        ("", fresh.weights, ""),
    )
    return Blank(fresh.model, RoutedWeights(routes))


@torch.no_grad()
def _init_embeddings(tower: InternVLVisionModel) -> None:
    """The stock tower starts with all positions zero, as for loading weights: equal patches would stay equal."""
    for parameter in (tower.embeddings.position_embeddings, tower.embeddings.cls_token):
        nn.init.normal_(parameter, std=POSITION_STD)
