"""A stage and batches in; how the FLOPs that their loss needs are divided among parts, forward and backward, out.

What is frozen has no backward pass, or one of its inputs alone: beside the MFU of a step, the share of forward passes
tells how far it is from a step of those alone.
"""

from collections import Counter
from collections.abc import Iterable

from data_shards.collate import Batch
from models.flops import forward_flops
from trainer.bench.packs import useful_tokens
from trainer.bench.parts import useful_flops
from trainer.stages.base import Stage
from trainer.stages.vlm import VlmStage
from trainer.utilisation import ATTENTION_PASSES

_TRAINED = 3
"""Forward passes that training costs: one, and two as dear for the gradients of inputs and weights."""


def flop_shares(stage: Stage, batches: Iterable[Batch]) -> dict[str, float]:
    """Shares that add up to one, by `PART forward` and `PART backward`; none for a stage without questions."""
    if not isinstance(stage, VlmStage):
        return {}
    total: Counter[str] = Counter()
    for batch in batches:
        total.update(flops_by_part(stage, batch))
    whole = sum(total.values())
    return {name: flops / whole for name, flops in total.items()} if whole else {}


def flops_by_part(stage: VlmStage, batch: Batch) -> dict[str, float]:
    """Of one batch; they add up to its `useful_flops`. The head counts as language."""
    directions = ("forward", "backward")
    named = {
        f"{name} {direction}": flops
        for name, both in _modules(stage, batch).items()
        for direction, flops in zip(directions, both, strict=True)
    }
    return {name: flops for name, flops in named.items() if flops}


def _modules(stage: VlmStage, batch: Batch) -> dict[str, tuple[float, float]]:
    """Forward and backward FLOPs of the three modules."""
    flops, tiles = forward_flops(stage.vlm.config), batch.meta.num_tiles
    once = {
        "vision": tiles * flops.tile,
        "projector": tiles * flops.image_token * flops.tokens_per_tile,
        "language": flops.token * useful_tokens(batch) + flops.label * len(batch.label_targets),
    }
    passes = dict(zip(once, stage.passes, strict=True))
    parts = {name: (once[name], (passes[name] - 1) * once[name]) for name in once}
    if passes["vision"] == _TRAINED:  # pixels get no gradient
        parts["vision"] = (once["vision"], parts["vision"][1] - tiles * flops.tile_patches)
    scores = useful_flops(stage, batch) - sum(map(sum, parts.values()))
    forward, backward = parts["language"]
    share = 1 / ATTENTION_PASSES
    return {**parts, "language": (forward + share * scores, backward + (1 - share) * scores)}
