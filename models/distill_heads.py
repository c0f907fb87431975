"""What distillation adds to a student tower: bridges to the teacher's width, and the codebook that defines logits.

Shape suffixes: T tiles, P patches of a tile, D student width, E teacher width, V codebook entries, F features.
"""

import torch
from torch import nn
from torch.nn.functional import normalize, one_hot
from transformers import InternVLVisionModel

from models.vision import patch_features


class DistillStudent(nn.Module):
    """A student tower with a linear bridge to the teacher's width for each of its last layers.

    Only `tower` is exported; the bridges live as long as the distillation.
    """

    def __init__(
        self, tower: InternVLVisionModel, teacher_width: int, last_k: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.tower = tower
        self.bridges = nn.ModuleList(_bridge(tower.config.hidden_size, teacher_width, generator) for _ in range(last_k))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """[T, 3, S, S] to the bridged hidden states of the last layers: tensors [T, 1 + P, E], CLS first."""
        states = patch_features(self.tower, pixels, len(self.bridges))
        return [bridge(state) for bridge, state in zip(self.bridges, states, strict=True)]


def _bridge(width: int, teacher_width: int, generator: torch.Generator | None) -> nn.Linear:
    bridge = nn.Linear(width, teacher_width)
    nn.init.normal_(bridge.weight, std=width**-0.5, generator=generator)
    nn.init.zeros_(bridge.bias)
    return bridge


class Codebook(nn.Module):
    """A frozen visual vocabulary: V unit prototypes in the teacher's feature space, onto which logits are cosines."""

    prototypes: torch.Tensor

    def __init__(self, prototypes: torch.Tensor) -> None:
        """Args: prototypes: [V, E], of any length; a fresh book to be loaded may be zeros."""
        super().__init__()
        self.register_buffer("prototypes", normalize(prototypes.detach().float(), dim=-1))

    def forward(self, features: torch.Tensor, temperature: float) -> torch.Tensor:
        """Logits [..., V] of features [..., E]: cosine similarity over `temperature`, in the features' dtype."""
        return normalize(features, dim=-1) @ self.prototypes.to(features.dtype).T / temperature


@torch.no_grad()
def spherical_kmeans(features: torch.Tensor, entries: int, iterations: int, generator: torch.Generator) -> torch.Tensor:
    """Unit prototypes that maximise the mean cosine between features and their nearest prototype.

    Seeded by k-means++ on cosine distance (Arthur and Vassilvitskii 2007), then `iterations` rounds of assignment and
    renormalised mean. A prototype that no feature chose moves to the feature farthest from its own.

    Args:
        features: [F, E], none of them zero; F at least `entries`.
        generator: on the device of `features`.

    Returns:
        float32 [V, E], V = `entries`.

    Raises:
        ValueError: fewer features than entries.
    """
    if not 1 <= entries <= len(features):
        raise ValueError(f"codebook entries: got {entries}, expected 1 to {len(features)}, the number of features")
    points = normalize(features.float(), dim=-1)
    prototypes = _spread_seeds(points, entries, generator)
    for _ in range(iterations):
        best, nearest = _assign(points, prototypes)
        sums = _sums(points, nearest, entries)
        empty = torch.bincount(nearest, minlength=entries) == 0
        sums[empty] = points[best.argsort()[: int(empty.sum())]]
        prototypes = normalize(sums, dim=-1)
    return prototypes


def _spread_seeds(points: torch.Tensor, entries: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++: each further seed is drawn with probability proportional to its distance from the chosen ones."""
    first = torch.randint(len(points), (1,), generator=generator, device=points.device)
    seeds = [points[first[0]]]
    distance = 1.0 - points @ seeds[0]
    for _ in range(entries - 1):
        chances = distance.clamp_min(1e-12)
        chosen = torch.multinomial(chances, 1, generator=generator)
        seeds.append(points[chosen[0]])
        distance = torch.minimum(distance, 1.0 - points @ seeds[-1])
    return torch.stack(seeds)


def _sums(points: torch.Tensor, nearest: torch.Tensor, entries: int) -> torch.Tensor:
    """Sum of the points of each prototype, the same bits each time: a GPU adds what is scattered in no fixed order."""
    if points.is_cuda:
        return sums_by_products(points, nearest, entries)
    return points.new_zeros(entries, points.shape[1]).index_add_(0, nearest, points)


def sums_by_products(points: torch.Tensor, nearest: torch.Tensor, entries: int, rows: int = 65536) -> torch.Tensor:
    """Sum of the points [F, E] of each prototype as products with one-hot rows, `rows` points at a time: [V, E]."""
    chunks = zip(points.split(rows), nearest.split(rows), strict=True)
    return torch.stack([one_hot(own, entries).to(chunk.dtype).T @ chunk for chunk, own in chunks]).sum(dim=0)


def _assign(points: torch.Tensor, prototypes: torch.Tensor, rows: int = 65536) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and index of each point's nearest prototype, `rows` points at a time to bound memory."""
    parts = [(chunk @ prototypes.T).max(dim=1) for chunk in points.split(rows)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
