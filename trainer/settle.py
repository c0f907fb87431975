"""A recipe that leaves the number of checkpointed layers open, and a card, in; the recipe with the numbers out."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from trainer.checkpointing_section import CheckpointingSection
from trainer.dist import num_gpus
from trainer.ds_config import precision
from trainer.memory import GIB, Zero
from trainer.memory_fit import fewest_checkpointed, memory_of
from trainer.recipe import Recipe
from trainer.stages import make_stage
from trainer.stages.sources import StageError


def settle_checkpointing(
    recipe: Recipe, config: Mapping[str, Any], world_size: int, gpu_gib: float | None = None
) -> tuple[Recipe, list[str]]:
    """As few checkpointed layers as make the estimated memory fit, in the place of each `auto`.

    Args:
        config: as `trainer.ds_config.resolve` returns.
        world_size: ranks.
        gpu_gib: memory of the card that is asked about; None for the recipe's, or that of the GPU that is there.

    Returns:
        the recipe, and a line that says what was chosen.

    Raises:
        StageError: no card is known, or it is too small whatever is checkpointed.
    """
    section = recipe.model.checkpointing
    free = [name for name, count in asdict(section).items() if count == "auto"]
    if not free:
        return recipe, []
    room = gpu_gib or section.gpu_gib or _own_gib()
    if not room:
        raise StageError(
            f"model.checkpointing.{free[0]}: got auto, but there is no GPU here and model.checkpointing.gpu_gib is 0; "
            "expected the memory of a GPU in GiB there, or a number of layers"
        )
    stage = make_stage(_with(recipe, dict.fromkeys(free, 0)), getattr(torch, precision(config)), loaded=False)
    counts = fewest_checkpointed(stage, Zero.of(config, world_size), room, free)
    if counts is None:
        raise StageError(
            f"model.checkpointing: got auto for {' and '.join(free)} in {room:g} GiB, too little with every layer "
            "checkpointed; lower data.max_tokens and data.max_tiles, take more GPUs under ZeRO-3, or a DeepSpeed "
            "configuration that offloads"
        )
    chosen = {name: counts.get(name, 0) for name in free}
    settled = _with(recipe, chosen)
    peak = memory_of(make_stage(settled, stage.dtype, loaded=False), Zero.of(config, world_size)).peak / GIB
    layers = ", ".join(f"{name} {count} of {len(stage.layers().get(name, ()))}" for name, count in chosen.items())
    return settled, [f"checkpointed layers, chosen for {room:g} GiB: {layers}; {peak:.1f} GiB estimated"]


def _with(recipe: Recipe, counts: Mapping[str, int]) -> Recipe:
    section = CheckpointingSection(**{**asdict(recipe.model.checkpointing), **counts})
    return replace(recipe, model=replace(recipe.model, checkpointing=section))


def _own_gib() -> float:
    """Of the smallest GPU of this machine, 0 without one."""
    return min((torch.cuda.get_device_properties(i).total_memory for i in range(num_gpus())), default=0) / GIB
