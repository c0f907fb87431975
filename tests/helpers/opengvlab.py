"""OpenGVLab's InternViT, InternLM2 and chat model in plain torch: random weights in, logits and hidden states out.

Written from the layouts' description, to compare conversions with; tensor names are those of OpenGVLab's checkpoints.
Shapes: B batch, N tokens, D width, H heads, G key-value heads, E head width.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from tests.helpers.opengvlab_configs import Language, Vision


class RMSNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


class _VisionEmbeddings(nn.Module):
    def __init__(self, config: Vision) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embedding = nn.Conv2d(3, width, patch, patch)
        self.position_embedding = nn.Parameter(torch.zeros(1, (config.image_size // patch) ** 2 + 1, width))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(pixels)
        rows, columns = patches.shape[-2:]
        count = self.position_embedding.shape[1] - 1
        side = round(count**0.5)
        grid = self.position_embedding[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        if (rows, columns) != (side, side):
            grid = F.interpolate(grid.float(), (rows, columns), mode="bicubic", align_corners=False)
        tokens = (patches + grid).flatten(2).mT
        first = self.class_embedding + self.position_embedding[:, :1]
        return torch.cat([first.expand(len(pixels), -1, -1), tokens], dim=1)


class VisionAttention(nn.Module):
    """Full attention; q, k and v are thirds of one projection."""

    def __init__(self, config: Vision) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.proj = nn.Linear(width, width)
        if config.qk_normalization:
            self.q_norm = RMSNorm(width, config.layer_norm_eps)
            self.k_norm = RMSNorm(width, config.layer_norm_eps)

    def projections(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k, v [B, N, D], before heads are cut; q and k normalised over the whole width where configured."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1)).unbind(-2)
        return (self.q_norm(q), self.k_norm(k), v) if hasattr(self, "q_norm") else (q, k, v)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, D] to the same."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.projections(x))
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class _VisionMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _VisionLayer(nn.Module):
    def __init__(self, config: Vision) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        norm = RMSNorm if config.norm_type == "rms_norm" else nn.LayerNorm
        self.attn = VisionAttention(config)
        self.mlp = _VisionMLP(width, config.intermediate_size)
        self.norm1, self.norm2 = norm(width, eps), norm(width, eps)
        self.ls1 = nn.Parameter(torch.full((width,), config.initializer_factor))
        self.ls2 = nn.Parameter(torch.full((width,), config.initializer_factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1 * self.attn(self.norm1(x))
        return x + self.ls2 * self.mlp(self.norm2(x))


class InternVisionModel(nn.Module):
    """InternViT."""

    def __init__(self, config: Vision) -> None:
        super().__init__()
        self.embeddings = _VisionEmbeddings(config)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(_VisionLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """[B, 3, S, S] to the embeddings and the output of each layer, [B, N, D]."""
        states = [self.embeddings(pixels)]
        for layer in self.encoder.layers:
            states.append(layer(states[-1]))
        return states


class LanguageAttention(nn.Module):
    """Causal grouped-query attention; `wqkv` holds, for each key-value head, its query heads, its key and its value."""

    def __init__(self, config: Language) -> None:
        super().__init__()
        self.config = config
        self.width = config.hidden_size // config.num_attention_heads
        rows = (config.num_attention_heads + 2 * config.num_key_value_heads) * self.width
        self.wqkv = nn.Linear(config.hidden_size, rows, bias=config.bias)
        self.wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def projections(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q [B, N, H, E], k and v [B, N, G, E], before rotation."""
        heads = self.wqkv(x).unflatten(-1, (self.config.num_key_value_heads, -1, self.width))
        return heads[..., :-2, :].flatten(2, 3), heads[..., -2, :], heads[..., -1, :]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, N, D] to the same."""
        q, k, v = self.projections(x)
        repeats = q.shape[2] // k.shape[2]
        q, k = (rotated(part, self.config) for part in (q, k))
        k, v = (part.repeat_interleave(repeats, dim=2) for part in (k, v))
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / self.width**0.5
        count = x.shape[1]
        future = torch.ones(count, count, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        return self.wo(torch.einsum("bhqk,bkhe->bqhe", weights, v).flatten(2))


def rotated(x_BNHE: torch.Tensor, config: Language) -> torch.Tensor:
    """Rotary positions 0..N-1, pairs (i, i + E/2); past the maximum position dynamic NTK raises the base."""
    count, width = x_BNHE.shape[1], x_BNHE.shape[-1]
    base, scaling, limit = config.rope_theta, config.rope_scaling, config.max_position_embeddings
    positions = torch.arange(count).double()
    if scaling and scaling["type"] == "linear":
        positions = positions / scaling["factor"]
    elif scaling and count > limit:
        factor = scaling["factor"]
        base = base * (factor * count / limit - (factor - 1)) ** (width / (width - 2))
    angles = positions[:, None] / base ** (torch.arange(0, width, 2).double() / width)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    pairs = torch.complex(x_BNHE[..., : width // 2].double(), x_BNHE[..., width // 2 :].double()) * turn
    return torch.cat([pairs.real, pairs.imag], dim=-1).to(x_BNHE.dtype)


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class _LanguageLayer(nn.Module):
    def __init__(self, config: Language) -> None:
        super().__init__()
        self.attention = LanguageAttention(config)
        self.feed_forward = _FeedForward(config.hidden_size, config.intermediate_size)
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class InternLM2(nn.Module):
    """InternLM2 with its output layer; a tied one has no tensor of its own there."""

    def __init__(self, config: Language) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList(_LanguageLayer(config) for _ in range(config.num_hidden_layers))
        self.model.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, embeddings: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """[B, N, D] to logits [B, N, V] and the states: embeddings, each layer's output, the last one normalised."""
        states = [embeddings]
        for layer in self.model.layers:
            states.append(layer(states[-1]))
        states[-1] = self.model.norm(states[-1])
        head = self.output if hasattr(self, "output") else self.model.tok_embeddings
        return states[-1] @ head.weight.T, states


class InternVLChat(nn.Module):
    """The whole model: tower, pixel shuffle (version 2), projector, language model."""

    def __init__(self, vision: Vision, language: Language) -> None:
        super().__init__()
        wide = 4 * vision.hidden_size
        self.vision_model = InternVisionModel(vision)
        self.language_model = InternLM2(language)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(wide),
            nn.Linear(wide, language.hidden_size),
            nn.GELU(),
            nn.Linear(language.hidden_size, language.hidden_size),
        )

    def image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """[T, 3, S, S] to [T, n, D] of the language model; each token joins 2 x 2 patches, row by row."""
        patches = self.vision_model(pixels)[-1][:, 1:]
        side = round(patches.shape[1] ** 0.5)
        grid = patches.unflatten(1, (side, side))
        corners = [grid[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.mlp1(torch.cat(corners, dim=-1).flatten(1, 2))

    def forward(
        self, ids: torch.Tensor, pixels: torch.Tensor, image_token: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """ids [1, N] with as many image tokens as the tiles have, to `InternLM2`'s outputs."""
        embeddings = self.language_model.model.tok_embeddings(ids).clone()
        embeddings[ids == image_token] = self.image_tokens(pixels).flatten(0, 1)
        return self.language_model(embeddings)


@torch.no_grad()
def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every tensor anew, norms and biases included, so that no two can be exchanged unseen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            fan_in = parameter[0].numel() if parameter.dim() < 3 or parameter.shape[0] > 1 else 4
            parameter.copy_(noise / fan_in**0.5)
        else:
            parameter.add_(0.2 * noise)
    return model.eval()


def write_checkpoint(model: nn.Module, config: dict, directory: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a checkpoint as OpenGVLab would; returns its directory."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    state = {name: tensor.to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
