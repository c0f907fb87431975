"""OpenGVLab's config.json in, stock transformers configurations out, and back.

A field that is absent has the default of OpenGVLab's own configuration class, which often is not that of transformers:
a tower without `norm_type` has RMSNorm, and a language model without `bias` has biases in its attention.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig, PreTrainedConfig

from models.convert.errors import ConvertError

C = TypeVar("C", bound=PreTrainedConfig)

STOCK_QK_NORM_EPS = 1e-6
"""transformers' tower has this epsilon in its q and k norms whatever the configuration says."""

CHAT_FIELDS: Mapping[str, Any] = MappingProxyType(
    {
        "template": "internlm2-chat",
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "pad2square": False,
    }
)
"""What OpenGVLab's code reads and transformers does not, with Mini-InternVL's values."""

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "num_channels",
    "image_size",
    "patch_size",
)
"""Fields of stock configurations that are numbers from 1 on, or lists of such."""

MIN_DOWNSAMPLE = 0.01
"""Below it, a token would join more than 10,000 patches."""

EXTRAS = "opengvlab"
"""Where a transformers configuration keeps the source's `CHAT_FIELDS`."""

IMAGE_TOKEN_FIELD = "img_context_token_id"
"""The field of our own that keeps the id of `<IMG_CONTEXT>` in OpenGVLab's form, whose code asks the tokenizer."""


@dataclass
class Fields:
    """The JSON object of a config.json, or one inside it; what is wrong with it is collected in `problems`."""

    values: Mapping[str, Any]
    place: str = ""
    problems: list[str] = field(default_factory=list)

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """The field, or `default` where it is absent; a field of another kind is a problem."""
        value = self.values.get(name, default)
        fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) <= (kind is bool)
        if not fits:
            self.expect(False, name, kind.__name__)
        return value if fits else kind()

    def expect(self, good: bool, name: str, what: str) -> None:
        """Note a problem with the field unless it is good."""
        if not good:
            got = repr(self.values[name]) if name in self.values else "no such field"
            self.problems.append(f"field '{self.place}{name}': got {got}, expected {what}")

    def inside(self, name: str) -> "Fields":
        """The object in a field, with the same list of problems."""
        value = self.values.get(name)
        self.expect(isinstance(value, dict), name, "an object")
        return Fields(value if isinstance(value, dict) else {}, f"{self.place}{name}.", self.problems)

    def check(self, file: Path) -> None:
        """Raise `ConvertError` with all problems found so far."""
        if self.problems:
            raise ConvertError(f"{file}: {'; '.join(self.problems)}")


def stock_config(cls: type[C], values: Mapping[str, Any], file: Path) -> C:
    """A stock configuration with these values.

    Raises:
        ConvertError: the class refuses them, or a size is below 1, which it does not look at.
    """
    try:
        config = cls(**values)
    except (StrictDataclassError, TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ConvertError(f"{file}: got values that {cls.__name__} refuses: {error}") from error
    if wrong := list(_small_sizes(config)):
        raise ConvertError(f"{file}: {'; '.join(wrong)}")
    return config


def _small_sizes(config: PreTrainedConfig, place: str = "") -> Iterator[str]:
    for name in _SIZES:
        value = getattr(config, name, 1)
        sizes = value if isinstance(value, (list, tuple)) else [1 if value is None else value]
        if not sizes or min(sizes) < 1:
            yield f"field '{place}{name}': got {value}, expected at least 1"
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            yield from _small_sizes(part, f"{place}{name}.")


def read_vision(fields: Fields, file: Path) -> InternVLVisionConfig:
    """The tower of OpenGVLab's InternVisionConfig.

    Raises:
        ConvertError: fields that are wrong or that transformers' tower cannot express.
    """
    heads, width = fields.get("num_attention_heads", int, 25), fields.get("hidden_size", int, 3200)
    size, patch = fields.get("image_size", int, 224), fields.get("patch_size", int, 14)
    norm = fields.get("norm_type", str, "rms_norm")
    qk_norm, eps = fields.get("qk_normalization", bool, True), fields.get("layer_norm_eps", float, 1e-6)
    fields.expect(heads > 0 and width % heads == 0, "num_attention_heads", f"a divisor of hidden_size {width}")
    fields.expect(patch > 0 and size >= patch, "image_size", f"at least patch_size {patch}")
    fields.expect(norm in ("rms_norm", "layer_norm"), "norm_type", "rms_norm or layer_norm")
    fields.expect(
        not qk_norm or eps == STOCK_QK_NORM_EPS,
        "layer_norm_eps",
        f"{STOCK_QK_NORM_EPS}, which transformers' tower has in its q and k norms",
    )
    values = {
        "hidden_size": width,
        "num_hidden_layers": fields.get("num_hidden_layers", int, 48),
        "num_attention_heads": heads,
        "intermediate_size": fields.get("intermediate_size", int, 12800),
        "image_size": size,
        "patch_size": patch,
        "num_channels": fields.get("num_channels", int, 3),
        "hidden_act": fields.get("hidden_act", str, "gelu"),
        "norm_type": norm,
        "use_qk_norm": qk_norm,
        "attention_bias": fields.get("qkv_bias", bool, False),
        "layer_norm_eps": eps,
        "layer_scale_init_value": fields.get("initializer_factor", float, 0.1),
        "attention_dropout": fields.get("attention_dropout", float, 0.0),
        "projection_dropout": fields.get("dropout", float, 0.0),
        "initializer_range": fields.get("initializer_range", float, 0.02),
    }
    if drop_path := fields.get("drop_path_rate", float, 0.0):
        values["drop_path_rate"] = drop_path
    fields.check(file)
    return stock_config(InternVLVisionConfig, values, file)


def read_language(fields: Fields, file: Path) -> LlamaConfig:
    """The Llama form of OpenGVLab's InternLM2Config.

    Raises:
        ConvertError: fields that are wrong or that the Llama form cannot express.
    """
    heads, width = fields.get("num_attention_heads", int, 32), fields.get("hidden_size", int, 4096)
    kv_heads = heads if fields.values.get("num_key_value_heads") is None else fields.get("num_key_value_heads", int)
    fields.expect(heads > 0 and width % heads == 0, "num_attention_heads", f"a divisor of hidden_size {width}")
    fields.expect(kv_heads > 0 and heads % kv_heads == 0, "num_key_value_heads", f"a divisor of {heads} heads")
    fields.expect(
        fields.get("rope_pos_id_version", str, "default") == "default",
        "rope_pos_id_version",
        "default: transformers has no variable position steps",
    )
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(fields.get("rope_theta", float, 10000))}
    if fields.values.get("rope_scaling") is not None:
        scaling = fields.inside("rope_scaling")
        rope |= {"rope_type": scaling.get("type", str), "factor": float(scaling.get("factor", float))}
        scaling.expect(rope["rope_type"] in ("linear", "dynamic"), "type", "linear or dynamic")
        scaling.expect(rope["factor"] >= 1, "factor", "a number from 1 on")
    values = {
        "vocab_size": fields.get("vocab_size", int, 103168),
        "hidden_size": width,
        "intermediate_size": fields.get("intermediate_size", int, 11008),
        "num_hidden_layers": fields.get("num_hidden_layers", int, 32),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": fields.get("hidden_act", str, "silu"),
        "max_position_embeddings": fields.get("max_position_embeddings", int, 2048),
        "initializer_range": fields.get("initializer_range", float, 0.02),
        "rms_norm_eps": fields.get("rms_norm_eps", float, 1e-6),
        "attention_bias": fields.get("bias", bool, True),
        "tie_word_embeddings": fields.get("tie_word_embeddings", bool, False),
        "rope_parameters": rope,
        "pad_token_id": fields.values.get("pad_token_id", 0),
        "bos_token_id": fields.values.get("bos_token_id", 1),
        "eos_token_id": fields.values.get("eos_token_id", 2),
    }
    fields.check(file)
    return stock_config(LlamaConfig, values, file)


def read_chat(fields: Fields, file: Path, image_token_id: int) -> InternVLConfig:
    """The whole model of OpenGVLab's InternVLChatConfig.

    Raises:
        ConvertError: fields that are wrong or that transformers' InternVL cannot express.
    """
    vision_fields, text_fields = fields.inside("vision_config"), fields.inside("llm_config")
    known = ["InternLM2ForCausalLM"]
    only = f"{known}: no other language model has rules here"
    text_fields.expect(text_fields.values.get("architectures") == known, "architectures", only)
    version = fields.get("ps_version", str, "v1")
    fields.expect(version == "v2", "ps_version", "v2, the only pixel shuffle that transformers has")
    ratio = fields.get("downsample_ratio", float, 0.5)
    fields.expect(MIN_DOWNSAMPLE <= ratio <= 1, "downsample_ratio", f"a number from {MIN_DOWNSAMPLE} to 1")
    for lora in ("use_backbone_lora", "use_llm_lora"):
        fields.expect(not fields.values.get(lora), lora, "0: merge the adapter into the weights first")
    size = vision_fields.values.get("image_size", 224)
    fields.expect(fields.values.get("force_image_size") in (None, size), "force_image_size", f"the tower's {size}")
    extras = {name: fields.values.get(name, default) for name, default in CHAT_FIELDS.items()}
    fields.check(file)
    vision, text = read_vision(vision_fields, file), read_language(text_fields, file)
    patch = vision_fields.values.get("patch_size", 14)
    values = {
        "vision_config": vision,
        "text_config": text,
        "image_token_id": image_token_id,
        "image_seq_length": int(size // patch * ratio) ** 2,
        "downsample_ratio": ratio,
        "vision_feature_layer": fields.get("select_layer", int, -1),
        "tie_word_embeddings": text.tie_word_embeddings,
        EXTRAS: extras,
    }
    fields.check(file)
    return stock_config(InternVLConfig, values, file)
