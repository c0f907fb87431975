"""The projector from vision to language model: `mlp` is the stock one, `linear` the ablation without hidden layer."""

import torch
from torch import nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, LlamaConfig

PROJECTORS = ("mlp", "linear")


class LinearProjector(nn.Module):
    """LayerNorm and one linear map from pixel-shuffled vision features to language-model embeddings."""

    def __init__(self, config: InternVLConfig) -> None:
        super().__init__()
        vision, text = config.vision_config, config.text_config
        assert isinstance(vision, InternVLVisionConfig)
        assert isinstance(text, LlamaConfig)
        width = vision.hidden_size * round(1 / config.downsample_ratio) ** 2
        self.layer_norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, text.hidden_size)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """[T tiles, n tokens, width] to [T, n, hidden]."""
        return self.linear(self.layer_norm(image_features))


class LinearProjectorVLM(InternVLForConditionalGeneration):
    """The stock model with a `LinearProjector`. Its class name stands in config.json: stock transformers lacks it."""

    def __init__(self, config: InternVLConfig) -> None:
        super().__init__(config)
        self.model.multi_modal_projector = LinearProjector(config)
        self.post_init()


def vlm_class(projector: str) -> type[InternVLForConditionalGeneration]:
    """The model class for one of `PROJECTORS`.

    Raises:
        ValueError: unknown projector.
    """
    if projector not in PROJECTORS:
        raise ValueError(f"projector: got {projector!r}, expected one of {', '.join(PROJECTORS)}")
    return InternVLForConditionalGeneration if projector == "mlp" else LinearProjectorVLM
