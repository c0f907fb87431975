"""Stock configurations in, the steps between OpenGVLab's tensors and transformers' tensors out, in either direction.

The three tables below are the whole mapping. Shapes are those of OpenGVLab's tensors, in the letters that
`_vision_pairs` and its siblings give sizes; transformers' shapes follow from the transform. Names of whole models are
those that `save_pretrained` puts on disk, which differ from the names of a `state_dict()`.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig

Shape = tuple[int, ...]
Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Step:
    """Tensors that are read together, and what is written of them: names with shapes, and the function between."""

    sources: Mapping[str, Shape]
    targets: Mapping[str, Shape]
    apply: Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Transform:
    """How one OpenGVLab tensor falls into transformers tensors, and how these are joined again."""

    split: Callable[[torch.Tensor], Tensors]
    join: Callable[[Tensors], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One tensor of OpenGVLab's and the transformers tensors it corresponds to, with names and shapes."""

    theirs: tuple[str, Shape]
    stock: Mapping[str, Shape]
    transform: Transform

    def step(self, to: str) -> Step:
        """The step that writes layout `to`."""
        theirs, transform = dict([self.theirs]), self.transform
        if to == "transformers":
            return Step(sources=theirs, targets=self.stock, apply=lambda read: transform.split(read[0]))
        return Step(sources=self.stock, targets=theirs, apply=lambda read: [transform.join(read)])


@dataclass(frozen=True)
class Rule:
    """One line of a table; `{n}` stands for the layer.

    Attributes:
        theirs: OpenGVLab's name.
        stock: transformers' names, as many as the transform makes.
        shape: OpenGVLab's shape in letters.
        transform: `copy`, `thirds` (rows of q, k, v) or `grouped` (rows of each key-value head: its q heads, k, v).
        when: the tensor exists only where the configuration has this.
    """

    theirs: str
    stock: tuple[str, ...]
    shape: str
    transform: str = "copy"
    when: str = ""


def _heads(module: str, suffix: str) -> tuple[str, ...]:
    return tuple(f"{module}.{head}_proj.{suffix}" for head in "qkv")


_THEIRS, _STOCK = "encoder.layers.{n}", "encoder.layer.{n}"
VISION_RULES = (
    Rule("embeddings.class_embedding", ("embeddings.cls_token",), "1 1 D"),
    Rule("embeddings.position_embedding", ("embeddings.position_embeddings",), "1 P D"),
    Rule("embeddings.patch_embedding.weight", ("embeddings.patch_embeddings.projection.weight",), "D C S S"),
    Rule("embeddings.patch_embedding.bias", ("embeddings.patch_embeddings.projection.bias",), "D"),
    Rule(f"{_THEIRS}.attn.qkv.weight", _heads(f"{_STOCK}.attention", "weight"), "QKV D", "thirds"),
    Rule(f"{_THEIRS}.attn.qkv.bias", _heads(f"{_STOCK}.attention", "bias"), "QKV", "thirds", "attention bias"),
    Rule(f"{_THEIRS}.attn.q_norm.weight", (f"{_STOCK}.attention.q_norm.weight",), "D", when="q and k norms"),
    Rule(f"{_THEIRS}.attn.k_norm.weight", (f"{_STOCK}.attention.k_norm.weight",), "D", when="q and k norms"),
    Rule(f"{_THEIRS}.attn.proj.weight", (f"{_STOCK}.attention.projection_layer.weight",), "D D"),
    Rule(f"{_THEIRS}.attn.proj.bias", (f"{_STOCK}.attention.projection_layer.bias",), "D"),
    Rule(f"{_THEIRS}.norm1.weight", (f"{_STOCK}.layernorm_before.weight",), "D"),
    Rule(f"{_THEIRS}.norm1.bias", (f"{_STOCK}.layernorm_before.bias",), "D", when="LayerNorm"),
    Rule(f"{_THEIRS}.norm2.weight", (f"{_STOCK}.layernorm_after.weight",), "D"),
    Rule(f"{_THEIRS}.norm2.bias", (f"{_STOCK}.layernorm_after.bias",), "D", when="LayerNorm"),
    Rule(f"{_THEIRS}.ls1", (f"{_STOCK}.lambda_1",), "D"),
    Rule(f"{_THEIRS}.ls2", (f"{_STOCK}.lambda_2",), "D"),
    Rule(f"{_THEIRS}.mlp.fc1.weight", (f"{_STOCK}.mlp.fc1.weight",), "F D"),
    Rule(f"{_THEIRS}.mlp.fc1.bias", (f"{_STOCK}.mlp.fc1.bias",), "F"),
    Rule(f"{_THEIRS}.mlp.fc2.weight", (f"{_STOCK}.mlp.fc2.weight",), "D F"),
    Rule(f"{_THEIRS}.mlp.fc2.bias", (f"{_STOCK}.mlp.fc2.bias",), "D"),
)

_LAYER = "model.layers.{n}"
LANGUAGE_RULES = (
    Rule("model.tok_embeddings.weight", ("model.embed_tokens.weight",), "V D"),
    Rule(f"{_LAYER}.attention.wqkv.weight", _heads(f"{_LAYER}.self_attn", "weight"), "QKV D", "grouped"),
    Rule(f"{_LAYER}.attention.wqkv.bias", _heads(f"{_LAYER}.self_attn", "bias"), "QKV", "grouped", "attention bias"),
    Rule(f"{_LAYER}.attention.wo.weight", (f"{_LAYER}.self_attn.o_proj.weight",), "D D"),
    Rule(f"{_LAYER}.attention.wo.bias", (f"{_LAYER}.self_attn.o_proj.bias",), "D", when="attention bias"),
    Rule(f"{_LAYER}.feed_forward.w1.weight", (f"{_LAYER}.mlp.gate_proj.weight",), "F D"),
    Rule(f"{_LAYER}.feed_forward.w3.weight", (f"{_LAYER}.mlp.up_proj.weight",), "F D"),
    Rule(f"{_LAYER}.feed_forward.w2.weight", (f"{_LAYER}.mlp.down_proj.weight",), "D F"),
    Rule(f"{_LAYER}.attention_norm.weight", (f"{_LAYER}.input_layernorm.weight",), "D"),
    Rule(f"{_LAYER}.ffn_norm.weight", (f"{_LAYER}.post_attention_layernorm.weight",), "D"),
    Rule("model.norm.weight", ("model.norm.weight",), "D"),
    Rule("output.weight", ("lm_head.weight",), "V D", when="untied embeddings"),
)

PROJECTOR_RULES = (
    Rule("mlp1.0.weight", ("multi_modal_projector.layer_norm.weight",), "W"),
    Rule("mlp1.0.bias", ("multi_modal_projector.layer_norm.bias",), "W"),
    Rule("mlp1.1.weight", ("multi_modal_projector.linear_1.weight",), "D W"),
    Rule("mlp1.1.bias", ("multi_modal_projector.linear_1.bias",), "D"),
    Rule("mlp1.3.weight", ("multi_modal_projector.linear_2.weight",), "D D"),
    Rule("mlp1.3.bias", ("multi_modal_projector.linear_2.bias",), "D"),
)

_DISK_NAMES = (
    (r"^model\.vision_tower\.", "vision_tower."),
    (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
"""Names of a whole transformers model's `state_dict()`, and what `save_pretrained` calls them on disk."""


def steps_between(
    config: InternVLConfig | InternVLVisionConfig | LlamaConfig, *, to: str = "transformers"
) -> list[Step]:
    """All steps for a model of this configuration; `to` is the layout that is written.

    Whole models put the vision tower first, then the projector, then the language model.
    """
    if isinstance(config, InternVLVisionConfig):
        pairs = _vision_pairs(config, "", "")
    elif isinstance(config, LlamaConfig):
        pairs = _language_pairs(config, tied=config.tie_word_embeddings, prefix="")
    else:
        vision, text = config.vision_config, config.text_config
        assert isinstance(vision, InternVLVisionConfig)
        assert isinstance(text, LlamaConfig)
        width = vision.hidden_size * round(1 / config.downsample_ratio) ** 2
        pairs = [
            *_vision_pairs(vision, "vision_model.", "vision_tower."),
            *_pairs(PROJECTOR_RULES, {"W": width, "D": text.hidden_size}, {"copy": _COPY}),
            *_language_pairs(text, tied=config.tie_word_embeddings, prefix="language_model."),
        ]
    return [pair.step(to) for pair in pairs]


def disk_name(name: str) -> str:
    """The name on disk of a whole transformers model's tensor, which may have the name it has in a `state_dict()`."""
    for pattern, replacement in _DISK_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


_COPY = Transform(split=lambda tensor: [tensor], join=lambda tensors: tensors[0])
_THIRDS = Transform(split=lambda tensor: tensor.chunk(3), join=lambda tensors: torch.cat(list(tensors)))


def grouped(kv_heads: int, group: int, head_dim: int) -> Transform:
    """InternLM2's `wqkv`: for each key-value head the rows of its `group` query heads, then its key, then its value."""

    def split(tensor: torch.Tensor) -> Tensors:
        heads = tensor.view(kv_heads, group + 2, head_dim, *tensor.shape[1:])
        return [part.flatten(0, 2) for part in heads.split([group, 1, 1], dim=1)]

    def join(tensors: Tensors) -> torch.Tensor:
        heads = [tensor.view(kv_heads, -1, head_dim, *tensor.shape[1:]) for tensor in tensors]
        return torch.cat(heads, dim=1).flatten(0, 2)

    return Transform(split=split, join=join)


def _vision_pairs(config: InternVLVisionConfig, theirs: str, stock: str) -> list[Pair]:
    size, patch = config.image_size, config.patch_size
    assert not isinstance(size, int)
    assert not isinstance(patch, int)
    sizes = {
        "D": config.hidden_size,
        "P": (size[0] // patch[0]) * (size[1] // patch[1]) + 1,
        "C": config.num_channels,
        "S": patch[0],
        "QKV": 3 * config.hidden_size,
        "F": config.intermediate_size,
    }
    present = {
        "attention bias": config.attention_bias,
        "q and k norms": config.use_qk_norm,
        "LayerNorm": config.norm_type == "layer_norm",
    }
    transforms = {"copy": _COPY, "thirds": _THIRDS}
    return _pairs(VISION_RULES, sizes, transforms, present, config.num_hidden_layers, theirs, stock)


def _language_pairs(config: LlamaConfig, *, tied: bool, prefix: str) -> list[Pair]:
    heads, kv_heads, head_dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    assert kv_heads is not None
    assert head_dim is not None
    sizes = {
        "D": config.hidden_size,
        "V": config.vocab_size,
        "QKV": (heads + 2 * kv_heads) * head_dim,
        "F": config.intermediate_size,
    }
    present = {"attention bias": config.attention_bias, "untied embeddings": not tied}
    transforms = {"copy": _COPY, "grouped": grouped(kv_heads, heads // kv_heads, head_dim)}
    return _pairs(LANGUAGE_RULES, sizes, transforms, present, config.num_hidden_layers, prefix, prefix)


def _pairs(
    rules: Sequence[Rule],
    sizes: Mapping[str, int],
    transforms: Mapping[str, Transform],
    present: Mapping[str, bool] | None = None,
    layers: int = 0,
    theirs: str = "",
    stock: str = "",
) -> list[Pair]:
    """The tables' lines with all letters and layers put in, layer by layer; `theirs` and `stock` are name prefixes."""
    kept = [rule for rule in rules if not rule.when or (present or {})[rule.when]]
    pairs = []
    for repeated, group in itertools.groupby(kept, key=lambda rule: "{n}" in rule.theirs):
        lines = list(group)
        for n, rule in itertools.product(range(layers if repeated else 1), lines):
            transform = transforms[rule.transform]
            shape = tuple(int(letter) if letter.isdigit() else sizes[letter] for letter in rule.shape.split())
            parts = transform.split(torch.empty(shape, device="meta"))
            names = [stock + name.replace("{n}", str(n)) for name in rule.stock]
            pairs.append(
                Pair(
                    theirs=(theirs + rule.theirs.replace("{n}", str(n)), shape),
                    stock={name: tuple(part.shape) for name, part in zip(names, parts, strict=True)},
                    transform=transform,
                )
            )
    return pairs
