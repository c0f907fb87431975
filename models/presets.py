"""Named model configurations: a preset name in, a stock transformers configuration out. No weights are made here."""

import copy
import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig

T = TypeVar("T")
C = TypeVar("C", InternVLVisionConfig, LlamaConfig)

_INTERNLM2_IMAGE_TOKEN = 92546
"""`<IMG_CONTEXT>` in the vocabulary of InternLM2 extended by InternVL's nine tokens."""

_TINY_TILE = 112
_TINY_INIT = 0.08
"""About 1 / sqrt(width): with the 0.02 of wide models the tiny ones' attention starts too weak to learn from."""

VISION_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "internvit-6b": {
            "hidden_size": 3200,
            "num_hidden_layers": 45,
            "num_attention_heads": 25,
            "intermediate_size": 12800,
            "norm_type": "rms_norm",
            "use_qk_norm": True,
            "attention_bias": False,
            "layer_scale_init_value": 0.1,
        },
        "internvit-300m": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "norm_type": "layer_norm",
            "use_qk_norm": False,
            "attention_bias": True,
            "layer_scale_init_value": 1.0,
            "drop_path_rate": 0.1,
        },
        "tiny-teacher": {
            "hidden_size": 160,
            "num_hidden_layers": 5,
            "num_attention_heads": 5,
            "intermediate_size": 640,
            "norm_type": "rms_norm",
            "use_qk_norm": True,
            "attention_bias": False,
            "layer_scale_init_value": 0.1,
            "initializer_range": _TINY_INIT,
            "image_size": _TINY_TILE,
        },
        "tiny-student": {
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 384,
            "norm_type": "layer_norm",
            "use_qk_norm": False,
            "attention_bias": True,
            "layer_scale_init_value": 1.0,
            "initializer_range": _TINY_INIT,
            "image_size": _TINY_TILE,
        },
    }
)
"""Vision towers. All have patches of 14 px, GELU, norm epsilon 1e-6 and no final norm; 448 px tiles unless said."""

TEXT_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "internlm2-1.8b": {
            "vocab_size": 92553,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
        "tiny-lm": {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 8192,
            "initializer_range": _TINY_INIT,
        },
    }
)
"""Language models in Llama form (InternLM2 differs only in how its checkpoints are laid out); untied, no biases."""

VLM_PRESETS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"drivlm-2b": ("internvit-300m", "internlm2-1.8b"), "tiny-vlm": ("tiny-student", "tiny-lm")}
)
"""Whole models: vision preset and text preset."""


class PresetError(ValueError):
    """A preset that does not exist, or one that lacks a value; the message names what is known."""


def vision_config(name: str) -> InternVLVisionConfig:
    """The vision tower `name` of `VISION_PRESETS`.

    Raises:
        PresetError: unknown name.
    """
    return InternVLVisionConfig(**_lookup(name, VISION_PRESETS, "vision"))


def text_config(name: str, *, vocab_size: int | None = None) -> LlamaConfig:
    """The language model `name` of `TEXT_PRESETS`, with another vocabulary size where given.

    Raises:
        PresetError: unknown name, or a preset without vocabulary and no `vocab_size`.
    """
    values = dict(_lookup(name, TEXT_PRESETS, "text"))
    if vocab_size is not None:
        values["vocab_size"] = vocab_size
    if "vocab_size" not in values:
        raise PresetError(f"text preset {name!r}: got no vocab_size, expected the tokenizer's size; pass vocab_size")
    return LlamaConfig(**values)


def vlm_config(
    vision: InternVLVisionConfig, text: LlamaConfig, image_token_id: int, downsample: float = 0.5
) -> InternVLConfig:
    """Join a tower and a language model; `image_token_id` is the id of `<IMG_CONTEXT>`.

    Embeddings stay untied: `InternVLConfig` would tie them whatever the text configuration says.

    Raises:
        PresetError: the token is outside the vocabulary.
    """
    if not 0 <= image_token_id < text.vocab_size:
        raise PresetError(
            f"image_token_id: got {image_token_id}, expected an id below the vocabulary size {text.vocab_size}; "
            "pass the tokenizer's id of <IMG_CONTEXT>"
        )
    return InternVLConfig(
        vision_config=_unnamed(vision),
        text_config=_unnamed(text),
        image_token_id=image_token_id,
        image_seq_length=image_tokens_per_tile(vision, downsample),
        downsample_ratio=downsample,
        tie_word_embeddings=False,
    )


def _unnamed(config: C) -> C:
    """A copy that does not say from which directory it was read."""
    copied = copy.deepcopy(config)
    copied._name_or_path = ""
    return copied


def vlm_preset(name: str, *, vocab_size: int | None = None, image_token_id: int | None = None) -> InternVLConfig:
    """The whole model `name` of `VLM_PRESETS`; `tiny-vlm` needs the vocabulary size and the id of `<IMG_CONTEXT>`.

    Raises:
        PresetError: unknown name, or a value that the preset does not bring.
    """
    vision, text = _lookup(name, VLM_PRESETS, "VLM")
    if image_token_id is None and text == "internlm2-1.8b":
        image_token_id = _INTERNLM2_IMAGE_TOKEN
    if image_token_id is None:
        raise PresetError(f"VLM preset {name!r}: got no image_token_id, expected the tokenizer's id of <IMG_CONTEXT>")
    return vlm_config(vision_config(vision), text_config(text, vocab_size=vocab_size), image_token_id)


def image_tokens_per_tile(vision: InternVLVisionConfig, downsample: float = 0.5) -> int:
    """Language-model tokens of one square tile after pixel shuffle: 256 at 448 px, 16 at 112 px."""
    size, patch = vision.image_size, vision.patch_size
    assert not isinstance(size, int)
    assert not isinstance(patch, int)
    side = int(size[0] // patch[0] * downsample)
    return side * side


def _lookup(name: str, table: Mapping[str, T], kind: str) -> T:
    if name in table:
        return table[name]
    nearest = difflib.get_close_matches(name, table, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise PresetError(f"{kind} preset: got {name!r}, expected one of {', '.join(table)}{hint}")
