"""Configurations and sizes of a pack in; the bytes that autograd keeps for the backward pass out, layer by layer.

Counted from what each operation saves: linear maps their input where their weight is trained, products both sides where
both want a gradient, attention its query, key, value, output and log-sum-exp. Views of one memory count once.
"""

from dataclasses import dataclass
from typing import Literal

from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig

from models.flops import language_flops
from models.presets import image_tokens_per_tile

Kernel = Literal["varlen", "sdpa"]
"""`varlen`: key-value heads as they are; `sdpa`: repeated for every query head."""

_PRECISE = 4
"""Bytes of float32, in which norms and log-sum-exp are computed whatever the models' own precision."""


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """Of one layer, for all its tokens.

    Attributes:
        whole: kept where the layer is not checkpointed.
        input: kept where it is.
        working: most that is held beside these at one moment of its backward pass: gradients on the way.
        flops: of a forward pass, without attention scores: what running it again costs.
    """

    whole: float
    input: float
    working: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class ModuleBytes:
    """Of a module with layers.

    Attributes:
        name: `vision` or `language`.
        layers: of those that gradients pass, in order; () where none does.
        skipped: number of layers before these, that no gradient reaches.
        ends: kept of what lies before and behind the layers.
    """

    name: str
    layers: tuple[LayerBytes, ...]
    skipped: int = 0
    ends: float = 0.0

    def kept(self, checkpointed: int) -> float:
        """Bytes at the end of the forward pass, with so many of the first layers checkpointed."""
        count = max(0, checkpointed - self.skipped)
        return (
            self.ends
            + sum(layer.input for layer in self.layers[:count])
            + sum(layer.whole for layer in self.layers[count:])
        )

    def backward_peak(self, checkpointed: int) -> float:
        """Most bytes at one moment of the backward pass: at its begin, or when the last checkpointed layer runs again,
        those behind it being gone."""
        count = min(max(0, checkpointed - self.skipped), len(self.layers))
        if not self.layers:
            return self.ends
        again = [self.ends + sum(layer.input for layer in self.layers[:count]) + self.layers[count - 1].whole]
        begin = self.kept(checkpointed)
        return max([begin, *(again if count else [])]) + self.layers[-1].working


def vision_layer(
    config: InternVLVisionConfig, tiles: int, item: int, *, trained: bool = True, fused: bool = False
) -> LayerBytes:
    """A layer of the tower.

    Args:
        config: of the tower.
        tiles: run at once.
        item: bytes of a number in the models' precision.
        trained: False where only gradients pass through.
        fused: `models.fused` computes in the place of transformers' layers.
    """
    tokens = tiles * (num_patches(config) + 1)
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    rms = config.norm_type == "rms_norm"
    norms = 2 * _norm(width, item, trained=trained, rms=rms, fused=fused)
    attention = float(4 * width * item + heads * _PRECISE)
    if config.use_qk_norm:
        attention += 2 * (_norm(width, item, trained=trained, rms=True, fused=fused) - (width * item if trained else 0))
    scale = 2 * width * item if trained else 0
    mlp = (2 if trained else 1) * inner * item
    return LayerBytes(
        whole=tokens * (norms + attention + scale + mlp),
        input=tokens * width * item,
        working=tokens * (2 * inner + 2 * width) * item,
        flops=tokens * (8 * width**2 + 4 * width * inner),
    )


def vision_layer_alone(config: InternVLVisionConfig, tiles: int, item: int) -> float:
    """Most bytes at one moment of a layer's forward pass without gradients: its input, the states between attention and
    MLP, both sides of the MLP's activation, and for each branch what it began with or gave."""
    tokens = tiles * (num_patches(config) + 1)
    return tokens * (2 * config.intermediate_size + 4 * config.hidden_size) * item


def language_layer(
    config: LlamaConfig,
    tokens: int,
    item: int,
    *,
    trained: bool = True,
    kernel: Kernel = "varlen",
    fused: bool = False,
) -> LayerBytes:
    """A layer of the language model, for `tokens` of a pack; other arguments as for `vision_layer`.

    With `sdpa` the copies of prefixes before each run of segments, and their masks, are left out.
    """
    assert config.head_dim is not None
    assert config.num_key_value_heads is not None
    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    queries = heads * config.head_dim
    keys = queries if kernel == "sdpa" else config.num_key_value_heads * config.head_dim
    norms = 2 * _norm(width, item, trained=trained, rms=True, fused=fused)
    attention = (2 * queries + 2 * keys) * item + heads * _PRECISE
    mlp = (2 if fused else 3) * inner * item + (inner * item if trained else 0)
    return LayerBytes(
        whole=tokens * (norms + attention + mlp),
        input=tokens * width * item,
        working=tokens * (3 * inner + 2 * width) * item,
        flops=tokens * language_flops(config)[0] / config.num_hidden_layers,
    )


def distill_loss_bytes(
    *, tokens: int, patches: int, width: int, entries: int, layers: int, item: int, features: bool = True
) -> tuple[float, float]:
    """The terms of distillation, in float32: states of `layers` layers as wide as the teacher, and codebook logits.

    Args:
        features: there is a term on states.

    Returns:
        as `loss_bytes`.
    """
    states = tokens * width
    kept = (2 * layers * states if features else 0) * _PRECISE + patches * (width + 2 * entries) * _PRECISE
    working = layers * 2 * states * item + 4 * patches * max(entries, width) * _PRECISE
    return kept, working


def projector_bytes(config: InternVLConfig, tiles: int, item: int) -> float:
    """The trained stock projector: norm, linear map, GELU, linear map."""
    vision, text = config.vision_config, config.text_config
    assert isinstance(vision, InternVLVisionConfig)
    assert isinstance(text, LlamaConfig)
    tokens = tiles * image_tokens_per_tile(vision, config.downsample_ratio)
    wide = int(vision.hidden_size / config.downsample_ratio**2)
    return tokens * (_norm(wide, item, trained=True, rms=False) + 2 * text.hidden_size * item)


def language_ends(config: LlamaConfig, tokens: int, item: int, *, trained: bool = True, fused: bool = False) -> float:
    """What lies before and behind the layers: rotary embeddings, and the last norm, whose output is not kept."""
    assert config.head_dim is not None
    last = _norm(config.hidden_size, item, trained=trained, rms=True, fused=fused)
    last -= config.hidden_size * item if trained else 0
    return tokens * (2 * config.head_dim * item + last)


def loss_bytes(
    config: LlamaConfig, labels: int, item: int, *, chunks: int, trained: bool = True, fused: bool = False
) -> tuple[float, float]:
    """Head and cross-entropy of label tokens, see `models.label_loss`.

    At the worst moment three float32 copies of the logits are there, their log-softmax, its gradient and their own,
    beside the gradient of the states. Fused, it is the logits and their gradient, in the model's precision.

    Returns:
        bytes kept until the backward pass, and held beside them while one part is computed.
    """
    states = labels * config.hidden_size * item
    logits = -(-labels // chunks) * config.vocab_size * (item if fused else _PRECISE)
    gradients = logits if fused else 2 * logits
    if chunks == 1:
        return logits + (states if trained else 0), gradients + states
    return states, logits + gradients + states


def pixel_bytes(config: InternVLVisionConfig, tiles: int, item: int) -> float:
    """Tiles of a pack on the device: as they come, uint8, and as the tower takes them."""
    assert not isinstance(config.image_size, int)
    return tiles * 3 * config.image_size[0] * config.image_size[1] * (1 + item)


def num_patches(config: InternVLVisionConfig) -> int:
    """Patches of a tile."""
    assert not isinstance(config.image_size, int)
    assert not isinstance(config.patch_size, int)
    return (config.image_size[0] // config.patch_size[0]) * (config.image_size[1] // config.patch_size[1])


def _norm(width: int, item: int, *, trained: bool, rms: bool, fused: bool = False) -> float:
    """Bytes a token of a norm and of its output, which the linear maps behind it keep where they are trained.

    LayerNorm keeps its input and two numbers, a fused RMSNorm its input and one. RMSNorm as transformers writes it
    keeps its input in float32, a number, and where its weight is trained the normalised input.
    """
    if not rms or fused:
        return width * item + (1 if rms else 2) * _PRECISE + (width * item if trained else 0)
    return width * max(item, _PRECISE) + _PRECISE + (2 * width * item if trained else 0)
