"""What the stock vision tower lacks: uint8 tiles to pixels, features of its last layers, DropPath.

Shape suffixes: T tiles, S tile side in pixels, P patches of a tile, D width of the tower.
"""

from typing import Any

import torch
from torch import nn
from transformers import InternVLVisionConfig, InternVLVisionModel

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalise_tiles(tiles: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 RGB tiles [T, S, S, 3] to pixels [T, 3, S, S], with ImageNet's mean and standard deviation."""
    assert tiles.dtype == torch.uint8, f"got {tiles.dtype}, expected uint8 tiles"
    assert tiles.shape[-1] == 3, f"got {tuple(tiles.shape)}, expected RGB last"
    pixels = tiles.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    for channel, mean, std in zip(pixels.unbind(1), IMAGE_MEAN, IMAGE_STD, strict=True):
        channel.sub_(mean * 255).div_(std * 255)  # numbers, not tensors: nothing is copied that the host waits for
    return pixels.to(dtype)


def patch_features(tower: InternVLVisionModel, pixels: torch.Tensor, last_k: int) -> list[torch.Tensor]:
    """Hidden states after each of the last `last_k` layers, first of them first.

    The layers are called one by one: under ZeRO-3 a layer's returned tensor carries the hooks that gather its
    parameters for the backward pass, and states of earlier layers are freed at once.

    Args:
        tower: a stock tower, wrapped or not.
        pixels: [T, 3, S, S].
        last_k: 1 to the number of layers.

    Returns:
        `last_k` tensors [T, 1 + P, D], CLS first; the last equals the tower's `last_hidden_state`.
    """
    layers = tower.encoder.layer
    assert 1 <= last_k <= len(layers), f"last_k {last_k} of {len(layers)} layers"
    hidden = tower.embeddings(pixels)
    kept = []
    for index, layer in enumerate(layers):
        hidden = layer(hidden)
        if index >= len(layers) - last_k:
            kept.append(hidden)
    kept[-1] = tower.layernorm(kept[-1])
    return kept


class TowerFeatures(nn.Module):
    """`patch_features` of a frozen tower as a module's own forward, by which ZeRO-3 knows when a pass begins."""

    def __init__(self, tower: InternVLVisionModel) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "TowerFeatures":
        """Stays in evaluation mode, whatever it is a part of: DropPath is off."""
        return super().train(False)

    def forward(self, pixels: torch.Tensor, last_k: int) -> list[torch.Tensor]:
        """See `patch_features`; without gradient."""
        with torch.no_grad():
            return patch_features(self.tower, pixels, last_k)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drops a residual branch of whole tiles, scales the others by 1 / (1 - rate).

    Draws from torch's global generator, whose state activation checkpointing restores when it runs a layer again.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """Branch output [T, 1 + P, D], in the same shape."""
        if not self.training or self.rate == 0.0:
            return branch
        kept = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        factors = kept.to(torch.promote_types(branch.dtype, torch.float32)) / (1.0 - self.rate)
        scaled: torch.Tensor = _Scaled.apply(branch, factors)
        return scaled

    def extra_repr(self) -> str:
        """Shown when the module is printed."""
        return f"rate={self.rate:.3f}"


class _Scaled(torch.autograd.Function):
    """States times factors that may be more precise, in one pass and in the states' dtype."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(factors)
        return torch.mul(states, factors, out=torch.empty_like(states))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,), (factors,) = gradients, ctx.saved_tensors
        return torch.mul(gradient, factors, out=torch.empty_like(gradient)), None


def own_drop_path(config: InternVLVisionConfig) -> float:
    """The rate that a tower's configuration asks for; stock configurations have none."""
    return float(getattr(config, "drop_path_rate", 0.0))


def add_drop_path(tower: InternVLVisionModel, rate: float) -> None:
    """Put DropPath on both branches of every layer, from 0 at the first layer linearly to `rate` at the last.

    It takes the places of the stock layer's two branch dropouts, which have no parameters: state, configuration and
    evaluation stay as they were. Calling it again sets another rate.

    Raises:
        ValueError: rate outside [0, 1), or a tower whose own dropout is not zero.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"drop_path: got {rate}, expected a rate in [0, 1)")
    config = tower.config
    if config.hidden_dropout_prob or config.projection_dropout:
        raise ValueError(
            f"drop_path: the tower has hidden_dropout_prob {config.hidden_dropout_prob} and projection_dropout "
            f"{config.projection_dropout}, expected 0 for both; set them to 0 in its config.json"
        )
    layers = tower.encoder.layer
    for index, layer in enumerate(layers):
        layer_rate = rate * index / max(len(layers) - 1, 1)
        layer.get_submodule("attention").projection_dropout = DropPath(layer_rate)
        layer.dropout = DropPath(layer_rate)
