"""Configurations in OpenGVLab's field names: the released models at full size, tiny ones like them, as config.json."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Vision:
    """A tower's configuration in OpenGVLab's field names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    norm_type: str
    qk_normalization: bool
    qkv_bias: bool
    initializer_factor: float
    image_size: int = 56
    patch_size: int = 14
    layer_norm_eps: float = 1e-6

    def json(self) -> dict:
        """config.json."""
        return {"architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Language:
    """A language model's configuration in OpenGVLab's field names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rope_scaling: dict | None
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-5
    bias: bool = False
    tie_word_embeddings: bool = False

    def json(self) -> dict:
        """config.json."""
        return {
            "architectures": ["InternLM2ForCausalLM"],
            "model_type": "internlm2",
            "pad_token_id": 2,
            **asdict(self),
        }


def chat_json(vision: Vision, language: Language) -> dict:
    """config.json of a whole model; its tower names no architecture, as in the released files it need not."""
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "vision_config": vision.json(),
        "llm_config": language.json(),
        "downsample_ratio": 0.5,
        "force_image_size": vision.image_size,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internlm2-chat",
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "max_dynamic_patch": 7,
    }


VISION_6B = Vision(
    hidden_size=3200,
    num_hidden_layers=45,
    num_attention_heads=25,
    intermediate_size=12800,
    norm_type="rms_norm",
    qk_normalization=True,
    qkv_bias=False,
    initializer_factor=0.1,
    image_size=448,
)
VISION_300M = Vision(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    norm_type="layer_norm",
    qk_normalization=False,
    qkv_bias=True,
    initializer_factor=1.0,
    image_size=448,
)
LANGUAGE_2B = Language(
    vocab_size=92553,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=8,
    max_position_embeddings=32768,
    rope_scaling={"type": "dynamic", "factor": 2.0},
)
TINY_6B = Vision(
    hidden_size=40,
    num_hidden_layers=3,
    num_attention_heads=5,
    intermediate_size=96,
    norm_type="rms_norm",
    qk_normalization=True,
    qkv_bias=False,
    initializer_factor=0.1,
)
TINY_300M = Vision(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    norm_type="layer_norm",
    qk_normalization=False,
    qkv_bias=True,
    initializer_factor=1.0,
)
TINY_LANGUAGE = Language(
    vocab_size=50,
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=16,
    rope_scaling={"type": "dynamic", "factor": 2.0},
)
