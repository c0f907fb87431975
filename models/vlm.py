"""Whole models: configurations or directories in, stock transformers models out, and the wrapper that runs packs.

Shape suffixes: N tokens of a pack, T tiles, S tile side in pixels, M label tokens, V vocabulary, D width.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    InternVLVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from models.attention import PACK_ATTENTION, PackLayout, register_pack_attention
from models.presets import vlm_config
from models.projector import LinearProjectorVLM, vlm_class

M = TypeVar("M", bound=PreTrainedModel)

POSITION_STD = 0.02


class ModelError(ValueError):
    """A model directory that cannot be loaded as what it should be; the message names directory and fix."""


def build_vision(config: InternVLVisionConfig, generator: torch.Generator) -> InternVLVisionModel:
    """A tower with fresh weights drawn from `generator`."""
    return _build(InternVLVisionModel, config, generator)


def build_language(config: LlamaConfig, generator: torch.Generator) -> LlamaForCausalLM:
    """A language model with fresh weights drawn from `generator`."""
    return _build(LlamaForCausalLM, config, generator)


def build_vlm(
    config: InternVLConfig, generator: torch.Generator, *, projector: str = "mlp"
) -> InternVLForConditionalGeneration:
    """A whole model with fresh weights drawn from `generator`; see `models.presets` for configurations."""
    return _build(vlm_class(projector), config, generator)


def join_vlm(
    vision: InternVLVisionModel,
    language: LlamaForCausalLM,
    *,
    image_token_id: int,
    generator: torch.Generator,
    projector: str = "mlp",
) -> InternVLForConditionalGeneration:
    """A whole model from a trained tower and a trained language model, with a fresh projector. Weights are copied."""
    vlm = build_vlm(vlm_config(vision.config, language.config, image_token_id), generator, projector=projector)
    vlm.model.vision_tower.load_state_dict(vision.state_dict())
    vlm.model.language_model.load_state_dict(language.model.state_dict())
    vlm.lm_head.load_state_dict(language.lm_head.state_dict())
    return vlm


def load_vision(path: Path, dtype: torch.dtype = torch.float32) -> InternVLVisionModel:
    """A tower from a directory of `save_model`, or the tower of a whole model from such a directory.

    Raises:
        ModelError: no such model there, or weights that do not fit its configuration.
    """
    if InternVLVisionModel.__name__ in model_architectures(path):
        return _load(InternVLVisionModel, path, dtype)
    return load_vlm(path, dtype).model.vision_tower


def load_language(path: Path, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A language model from a directory of `save_model`.

    Raises:
        ModelError: no such model there, or weights that do not fit its configuration.
    """
    return _load(LlamaForCausalLM, path, dtype)


def load_vlm(path: Path, dtype: torch.dtype = torch.float32) -> InternVLForConditionalGeneration:
    """A whole model, with either projector, from a directory of `save_model` or `trainer.export`.

    Raises:
        ModelError: no such model there, or weights that do not fit its configuration.
    """
    linear = LinearProjectorVLM.__name__ in model_architectures(path)
    return _load(LinearProjectorVLM if linear else InternVLForConditionalGeneration, path, dtype)


def save_model(model: PreTrainedModel, path: Path, *, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write config.json and safetensors; `state` replaces the model's own state where ZeRO-3 has it partitioned."""
    model.save_pretrained(path, state_dict=None if state is None else dict(state))


def model_architectures(path: Path) -> list[str]:
    """The class names in a model directory's config.json.

    Raises:
        ModelError: no readable config.json there.
    """
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(f"{file}: no such file, expected a saved model; give the directory that holds config.json")
    try:
        return list(json.loads(file.read_text()).get("architectures") or [])
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"{file}: got text that is no JSON object ({error}), expected a model configuration"
        ) from error


def pack_embeddings(
    vlm: InternVLForConditionalGeneration, input_ids: torch.Tensor, pixel_values: torch.Tensor, *, dummy_tile: bool
) -> torch.Tensor:
    """Input embeddings [1, N, D] of a pack, with the projected tiles at its `<IMG_CONTEXT>` tokens.

    Arguments and errors as for `PackedVLM.forward`.
    """
    model = vlm.model
    embeds_1ND = vlm.get_input_embeddings()(input_ids[None])
    features = model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
    features = features.to(embeds_1ND.dtype)
    if dummy_tile:
        return embeds_1ND + features.sum() * 0.0
    places = model.get_placeholder_mask(input_ids[None], inputs_embeds=embeds_1ND, image_features=features)
    return embeds_1ND.masked_scatter(places, features)


def tile_side(vlm: InternVLForConditionalGeneration) -> int:
    """Side in pixels of the tiles the model was made for."""
    return vlm.model.vision_tower.config.image_size[0]


class PackedVLM(nn.Module):
    """Runs packs through a stock model, which stays whole and exportable as `.vlm`.

    The language model is set to pack attention until `release`, not only within `forward`: activation checkpointing
    runs its layers again during the backward pass. Only submodules' own forwards touch parameters, as ZeRO-3 needs.
    """

    def __init__(self, vlm: InternVLForConditionalGeneration) -> None:
        super().__init__()
        register_pack_attention()
        self.vlm = vlm
        language = vlm.model.language_model
        self._former_attention = language.config._attn_implementation
        language.set_attn_implementation(PACK_ATTENTION)

    def release(self) -> InternVLForConditionalGeneration:
        """Put the stock attention back and hand out the stock model; the wrapper is of no use afterwards."""
        self.vlm.model.language_model.set_attn_implementation(self._former_attention)
        return self.vlm

    def checkpoint_activations(self) -> None:
        """Keep only layer inputs, in both towers, and run layers again in the backward pass (non-reentrant)."""
        self.vlm.activation_checkpointing_enable({"use_reentrant": False})

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        layout: PackLayout,
        label_positions: torch.Tensor,
        dummy_tile: bool = False,
    ) -> torch.Tensor:
        """Logits of one pack at its label positions.

        Args:
            input_ids, position_ids: int64 [N].
            pixel_values: [T, 3, S, S], the tiles in the order of their `<IMG_CONTEXT>` tokens.
            layout: who sees whom.
            label_positions: int64 [M], the tokens whose successors are predicted.
            dummy_tile: the pack has no image; its one tile runs through the tower, so that every rank calls it equally
                often, and counts zero times.

        Returns:
            [M, V].

        Raises:
            ValueError: the tiles' tokens and the pack's `<IMG_CONTEXT>` tokens differ in number.
        """
        outputs = self.vlm.model.language_model(
            inputs_embeds=pack_embeddings(self.vlm, input_ids, pixel_values, dummy_tile=dummy_tile),
            position_ids=position_ids[None],
            use_cache=False,
            pack_layout=layout,
        )
        return self.vlm.lm_head(outputs.last_hidden_state[0, label_positions])


def _build(cls: type[M], config: InternVLConfig | InternVLVisionConfig | LlamaConfig, generator: torch.Generator) -> M:
    """Stock classes draw from torch's global generator: seed a fork of it, and leave the global state alone."""
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(config)
        for module in model.modules():
            if isinstance(module, InternVLVisionModel):
                _init_embeddings(module)
    return model


@torch.no_grad()
def _init_embeddings(tower: InternVLVisionModel) -> None:
    """The stock tower starts with all positions zero, as for loading weights: equal patches would stay equal."""
    for parameter in (tower.embeddings.position_embeddings, tower.embeddings.cls_token):
        nn.init.normal_(parameter, std=POSITION_STD)


def _load(cls: type[M], path: Path, dtype: torch.dtype) -> M:
    known = model_architectures(path)
    if known and cls.__name__ not in known:
        raise ModelError(f"{path / 'config.json'}: field 'architectures': got {known}, expected {cls.__name__}")
    try:
        loaded: Any = cls.from_pretrained(path, dtype=dtype, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{path}: weights of {cls.__name__} cannot be loaded: {error}") from error
    model, report = loaded
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    problems = {kind: sorted(report[kind]) for kind in kinds if report[kind]}
    if problems:
        raise ModelError(f"{path}: weights do not fit {cls.__name__}: {problems}; is the checkpoint of another model?")
    return model
