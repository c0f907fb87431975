"""What packs hold and which modules are trained in, exact FLOPs of their training out, and what share of the device's
peak they are.

`useful` is what the loss needs: visible (query, key) pairs, no padding, nothing computed twice. `hardware` is all that
was computed: masked pairs, dummy tiles, recomputation, the attention kernels' own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from models.attention import PackLayout
from models.attention.sdpa import SdpaPlan
from models.flops import ForwardFlops, TowerFlops

PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 PCIE": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H800": 989.4,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10": 125.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 peaks of NVIDIA's data sheets by part of the device's name; the longest part that fits counts."""


ATTENTION_PASSES = 3
"""Cost of scores and values in forward passes: they have no weights, so that both sides need gradients in any case."""


@dataclass(frozen=True, kw_only=True)
class TrainFlops:
    """FLOPs of forward and backward passes; see the file's beginning."""

    useful: float = 0.0
    hardware: float = 0.0

    def __add__(self, other: "TrainFlops") -> "TrainFlops":
        return TrainFlops(useful=self.useful + other.useful, hardware=self.hardware + other.hardware)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a module takes part in training.

    Attributes:
        share: trained parameters over all; gradients of weights are computed for this share.
        again: share of its layers that run a second time in the backward pass (activation checkpointing).
    """

    share: float
    again: float = 0.0


def trained_share(module: nn.Module) -> float:
    """Share of a module's parameters that are trained; to be asked before they are partitioned."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, counts in sizes if counts) / max(sum(size for size, _ in sizes), 1)


def tower_training(flops: TowerFlops, trained: Trained) -> TrainFlops:
    """A tower on one tile. Pixels get no gradient, so that embedding patches takes two passes and not three."""
    if not trained.share:
        forward = float(sum(flops))
        return TrainFlops(useful=forward, hardware=forward)
    useful = (
        flops.patches * (1 + trained.share) + flops.matrices * (2 + trained.share) + flops.scores * ATTENTION_PASSES
    )
    again = trained.again * (flops.matrices + flops.scores)
    return TrainFlops(useful=useful, hardware=useful + flops.scores / 2 + again)


@dataclass(frozen=True, kw_only=True)
class PackSize:
    """What a pack makes a whole model compute.

    Attributes:
        tiles: of frames; a dummy tile is none.
        run_tiles: that went through the tower.
        tokens, labels: of the language model, and of its head.
        pairs: (query, key) pairs that see each other.
        run_pairs: that the attention backend computes.
    """

    tiles: int
    run_tiles: int
    tokens: int
    labels: int
    pairs: float
    run_pairs: float


def vlm_training(
    flops: ForwardFlops, size: PackSize, *, vision: Trained, projector: Trained, language: Trained, head_again: bool
) -> TrainFlops:
    """A whole model on one pack; gradients reach the language model's input, whatever is trained.

    Args:
        flops: of the forward pass.
        size: of the pack.
        vision, projector, language: the head counts as language.
        head_again: the head runs in parts, which are computed again in the backward pass.
    """
    tower = TowerFlops(
        patches=flops.tile_patches,
        matrices=flops.tile - flops.tile_patches - flops.tile_scores,
        scores=flops.tile_scores,
    )
    tile = tower_training(tower, vision)
    per_tile = _projector_training(flops, vision, projector) * flops.tokens_per_tile
    matrices = (size.tokens * flops.token + size.labels * flops.label) * (2 + language.share)
    layers = size.tokens * (flops.token - flops.token_last) + size.run_pairs * flops.pair
    again = language.again * layers
    again += size.labels * flops.label if head_again else 0.0
    return TrainFlops(
        useful=size.tiles * (tile.useful + per_tile) + matrices + ATTENTION_PASSES * size.pairs * flops.pair,
        hardware=size.run_tiles * (tile.hardware + per_tile) + matrices + 3.5 * size.run_pairs * flops.pair + again,
    )


def _projector_training(flops: ForwardFlops, vision: Trained, projector: Trained) -> float:
    """For an image token. Before the first matrix stands a norm with weights, which needs that matrix's gradient of its
    input over a frozen tower as well."""
    if not vision.share and not projector.share:
        return flops.image_token
    return flops.image_token * (2 + projector.share)


def visible_pairs(layout: PackLayout) -> float:
    """(query, key) pairs of a pack that see each other."""
    groups = zip(layout.prefix_lengths, layout.segment_lengths, strict=True)
    return sum(group_pairs(prefix, segments) for prefix, segments in groups)


def group_pairs(prefix: int, segments: Iterable[int]) -> float:
    """(query, key) pairs that see each other, of a prefix of so many tokens and the segments behind it."""
    return prefix * (prefix + 1) / 2 + sum(prefix * own + own * (own + 1) / 2 for own in segments)


def computed_pairs(layout: PackLayout) -> float:
    """Pairs that the layout's backend computes: masked SDPA those that it masks as well, the kernels for packs none."""
    if not isinstance(layout.plan, SdpaPlan):
        return visible_pairs(layout)
    masked = sum(run.mask.numel() for runs in layout.plan.runs for run in runs)
    return float(masked + sum(prefix**2 for prefix in layout.plan.prefix_lengths))


def peak_flops(device_name: str, given_tflops: float) -> float | None:
    """Peak FLOP/s of a device: what the recipe gives, else the table's value; None where neither knows."""
    if given_tflops:
        return given_tflops * 1e12
    fitting = [name for name in PEAK_TFLOPS if name in device_name.upper()]
    return PEAK_TFLOPS[max(fitting, key=len)] * 1e12 if fitting else None
