"""Stock transformers configurations in, the config.json that OpenGVLab's code reads out."""

from pathlib import Path
from typing import Any

from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig

from models.convert.configs import CHAT_FIELDS, EXTRAS, IMAGE_TOKEN_FIELD, MIN_DOWNSAMPLE, STOCK_QK_NORM_EPS
from models.convert.errors import ConvertError


def vision_json(config: InternVLVisionConfig, file: Path) -> dict[str, Any]:
    """OpenGVLab's InternVisionConfig.

    Raises:
        ConvertError: what OpenGVLab's tower cannot express; all of it at once.
    """
    size, patch = config.image_size, config.patch_size
    assert not isinstance(size, int)
    assert not isinstance(patch, int)
    _check(
        file,
        {
            "image_size": (len(set(size)) == 1, list(size), "a square"),
            "patch_size": (len(set(patch)) == 1, list(patch), "a square"),
            "use_mask_token": (not config.use_mask_token, True, "false"),
            "use_absolute_position_embeddings": (config.use_absolute_position_embeddings, False, "true"),
            "layer_norm_eps": (
                not config.use_qk_norm or config.layer_norm_eps == STOCK_QK_NORM_EPS,
                config.layer_norm_eps,
                f"{STOCK_QK_NORM_EPS}: OpenGVLab's tower has it in its q and k norms too",
            ),
        },
    )
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "image_size": size[0],
        "patch_size": patch[0],
        "num_channels": config.num_channels,
        "hidden_act": config.hidden_act,
        "norm_type": config.norm_type,
        "qk_normalization": config.use_qk_norm,
        "qkv_bias": config.attention_bias,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_factor": config.layer_scale_init_value,
        "initializer_range": config.initializer_range,
        "attention_dropout": config.attention_dropout,
        "dropout": config.projection_dropout,
        "drop_path_rate": getattr(config, "drop_path_rate", 0.0),
        "use_flash_attn": True,
    }


def language_json(config: LlamaConfig, file: Path, *, tied: bool) -> dict[str, Any]:
    """OpenGVLab's InternLM2Config.

    Raises:
        ConvertError: what InternLM2 cannot express; all of it at once.
    """
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    assert kv_heads is not None
    rope = dict(config.rope_parameters or {})
    kind = rope.get("rope_type", "default")
    _check(
        file,
        {
            "num_key_value_heads": (heads % kv_heads == 0, kv_heads, f"a divisor of {heads} heads"),
            "head_dim": (config.head_dim == width / heads, config.head_dim, f"hidden_size / heads = {width / heads:g}"),
            "mlp_bias": (not config.mlp_bias, True, "false"),
            "rope_parameters": (kind in ("default", "linear", "dynamic"), rope, "default, linear or dynamic"),
        },
    )
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "attn_implementation": "eager",
        "vocab_size": config.vocab_size,
        "hidden_size": width,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": config.hidden_act,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.rms_norm_eps,
        "bias": config.attention_bias,
        "tie_word_embeddings": tied,
        "rope_theta": rope.get("rope_theta", 10000.0),
        "rope_scaling": None if kind == "default" else {"type": kind, "factor": float(rope["factor"])},
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "use_cache": True,
    }


def chat_json(config: InternVLConfig, file: Path) -> dict[str, Any]:
    """OpenGVLab's InternVLChatConfig; fields that transformers lacks come from `EXTRAS` or are Mini-InternVL's.

    Raises:
        ConvertError: what OpenGVLab's model cannot express; all of it at once.
    """
    vision, text = config.vision_config, config.text_config
    if not isinstance(vision, InternVLVisionConfig) or not isinstance(text, LlamaConfig):
        kinds = [getattr(part, "model_type", None) for part in (vision, text)]
        raise ConvertError(
            f"{file}: fields 'vision_config.model_type' and 'text_config.model_type': got {kinds}, expected "
            "['internvl_vision', 'llama']; other towers and language models have no rules"
        )
    strategy, ratio = config.vision_feature_select_strategy, config.downsample_ratio
    extras = getattr(config, EXTRAS, None) or {}
    _check(
        file,
        {
            "projector_hidden_act": (config.projector_hidden_act == "gelu", config.projector_hidden_act, "gelu"),
            "vision_feature_select_strategy": (strategy == "default", strategy, "default"),
            "vision_feature_layer": (isinstance(config.vision_feature_layer, int), "a list", "one layer"),
            "downsample_ratio": (MIN_DOWNSAMPLE <= ratio <= 1, ratio, f"a number from {MIN_DOWNSAMPLE} to 1"),
            EXTRAS: (isinstance(extras, dict), extras, "an object"),
        },
    )
    vision_values = vision_json(vision, file)
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "vision_config": vision_values,
        "llm_config": language_json(text, file, tied=config.tie_word_embeddings),
        "downsample_ratio": ratio,
        "force_image_size": vision_values["image_size"],
        "ps_version": "v2",
        "select_layer": config.vision_feature_layer,
        "tie_word_embeddings": config.tie_word_embeddings,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        IMAGE_TOKEN_FIELD: config.image_token_id,
        **{name: extras.get(name, default) for name, default in CHAT_FIELDS.items()},
    }


def _check(file: Path, fields: dict[str, tuple[bool, Any, str]]) -> None:
    wrong = [f"field '{name}': got {got}, expected {what}" for name, (good, got, what) in fields.items() if not good]
    if wrong:
        raise ConvertError(f"{file}: {'; '.join(wrong)}; OpenGVLab's classes know nothing else")
