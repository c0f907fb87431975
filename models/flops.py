"""Configurations in, exact floating-point operations of a forward pass out: a multiplication and an addition count two.

Matrix products only, as hardware peaks are stated; norms, activations and softmax are left out.
"""

from dataclasses import dataclass

from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig

from models.presets import image_tokens_per_tile


@dataclass(frozen=True, kw_only=True)
class ForwardFlops:
    """Forward FLOPs of a whole model's parts.

    Attributes:
        tile: vision tower, one tile.
        image_token: projector, one image token.
        token: language model, one token, without attention scores and head.
        pair: language model's attention, one query that sees one key, all layers and heads.
        label: language model's head, one label token.
        tokens_per_tile: image tokens of a tile.
    """

    tile: float
    image_token: float
    token: float
    pair: float
    label: float
    tokens_per_tile: int


def vision_flops(config: InternVLVisionConfig) -> float:
    """Forward FLOPs of the tower for one tile."""
    assert not isinstance(config.image_size, int)
    assert not isinstance(config.patch_size, int)
    side, patch = config.image_size[0], config.patch_size[0]
    patches = (side // patch) ** 2
    tokens, width = patches + 1, config.hidden_size
    layer = tokens * (8 * width**2 + 4 * width * config.intermediate_size) + 4 * tokens**2 * width
    return 2 * patches * 3 * patch**2 * width + config.num_hidden_layers * layer


def language_flops(config: LlamaConfig) -> tuple[float, float, float]:
    """Forward FLOPs of the language model for a token, for a (query, key) pair, and of its head for a label."""
    assert config.head_dim is not None
    assert config.num_key_value_heads is not None
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    layer = 4 * width * heads + 4 * width * keys + 6 * width * config.intermediate_size
    layers = config.num_hidden_layers
    return layers * layer, layers * 4 * heads, 2 * width * config.vocab_size


def forward_flops(config: InternVLConfig) -> ForwardFlops:
    """Forward FLOPs of a whole model with the stock projector."""
    vision, text = config.vision_config, config.text_config
    assert isinstance(vision, InternVLVisionConfig)
    assert isinstance(text, LlamaConfig)
    token, pair, label = language_flops(text)
    shuffled = int(vision.hidden_size / config.downsample_ratio**2)
    return ForwardFlops(
        tile=vision_flops(vision),
        image_token=2 * shuffled * text.hidden_size + 2 * text.hidden_size**2,
        token=token,
        pair=pair,
        label=label,
        tokens_per_tile=image_tokens_per_tile(vision, config.downsample_ratio),
    )
