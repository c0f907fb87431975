"""Configurations in, exact floating-point operations of a forward pass out: a multiplication and an addition count two.

Matrix products only, as hardware peaks are stated; norms, activations and softmax are left out.
"""

from dataclasses import dataclass
from typing import NamedTuple

from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig

from models.presets import image_tokens_per_tile


@dataclass(frozen=True, kw_only=True)
class ForwardFlops:
    """Forward FLOPs of a whole model's parts.

    Attributes:
        tile: vision tower, one tile; of it `tile_patches` embed the patches and `tile_scores` are attention scores and
            their products with values.
        image_token: projector, one image token.
        token: language model, one token, without attention scores and head; of it `token_last` are the last matrices of
            the layers, which recomputation leaves out since no gradient needs their output.
        pair: language model's attention, one query that sees one key, all layers and heads.
        label: language model's head, one label token.
        tokens_per_tile: image tokens of a tile.
    """

    tile: float
    tile_patches: float
    tile_scores: float
    image_token: float
    token: float
    token_last: float
    pair: float
    label: float
    tokens_per_tile: int


class TowerFlops(NamedTuple):
    """Forward FLOPs of a tower for one tile: embedding of patches, matrices of layers, attention between patches."""

    patches: float
    matrices: float
    scores: float


def tower_flops(config: InternVLVisionConfig) -> TowerFlops:
    """Forward FLOPs of the tower for one tile, by part."""
    assert not isinstance(config.patch_size, int)
    tokens, width, layers = tile_tokens(config), config.hidden_size, config.num_hidden_layers
    return TowerFlops(
        patches=2 * (tokens - 1) * 3 * config.patch_size[0] ** 2 * width,
        matrices=layers * tokens * (8 * width**2 + 4 * width * config.intermediate_size),
        scores=layers * 4 * tokens**2 * width,
    )


def vision_flops(config: InternVLVisionConfig) -> float:
    """Forward FLOPs of the tower for one tile."""
    return float(sum(tower_flops(config)))


def tile_tokens(config: InternVLVisionConfig) -> int:
    """Tokens of one tile in the tower: its patches and CLS."""
    assert not isinstance(config.image_size, int)
    assert not isinstance(config.patch_size, int)
    return (config.image_size[0] // config.patch_size[0]) ** 2 + 1


def language_flops(config: LlamaConfig) -> tuple[float, float, float]:
    """Forward FLOPs of the language model for a token, for a (query, key) pair, and of its head for a label."""
    assert config.head_dim is not None
    assert config.num_key_value_heads is not None
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    layer = 4 * width * heads + 4 * width * keys + 6 * width * config.intermediate_size
    layers = config.num_hidden_layers
    return layers * layer, layers * 4 * heads, 2 * width * config.vocab_size


def forward_flops(config: InternVLConfig, *, projector: str = "mlp") -> ForwardFlops:
    """Forward FLOPs of a whole model with a projector of `models.projector.PROJECTORS`."""
    vision, text = config.vision_config, config.text_config
    assert isinstance(vision, InternVLVisionConfig)
    assert isinstance(text, LlamaConfig)
    token, pair, label = language_flops(text)
    tower = tower_flops(vision)
    first = 2 * int(vision.hidden_size / config.downsample_ratio**2) * text.hidden_size
    return ForwardFlops(
        tile=float(sum(tower)),
        tile_patches=tower.patches,
        tile_scores=tower.scores,
        image_token=first + (2 * text.hidden_size**2 if projector == "mlp" else 0),
        token=token,
        token_last=2 * text.num_hidden_layers * text.hidden_size * text.intermediate_size,
        pair=pair,
        label=label,
        tokens_per_tile=image_tokens_per_tile(vision, config.downsample_ratio),
    )
