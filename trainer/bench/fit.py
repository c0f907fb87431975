"""Settings, a DeepSpeed configuration and a card in; the settings with as few checkpointed layers as fit, and what to
say of them, out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainer.bench.settings import BenchSettings, bench_recipe
from trainer.bench.stock import StockStage, stock_memory, stock_stage
from trainer.checkpointing_section import CheckpointingSection
from trainer.dist import Ranks
from trainer.ds_config import precision
from trainer.footprint import as_in_recipe
from trainer.memory import GIB, Memory, Zero
from trainer.memory_fit import fewest_checkpointed, memory_of
from trainer.stages import make_stage
from trainer.stages.base import Stage
from trainer.stages.sources import StageError

_MARGIN = 1.0
"""GiB of a card that are left alone, beside the reserve that the estimate holds."""


def with_room(settings: BenchSettings, ranks: Ranks) -> BenchSettings:
    """The settings with the memory of the smallest card of all ranks, where neither a card nor layers are named."""
    if settings.checkpointing is not None or settings.gpu_gib is not None or ranks.device().type != "cuda":
        return settings
    free, total = torch.cuda.mem_get_info()
    return replace(settings, gpu_gib=-ranks.max([-_room_gib(free, total)])[0])


def _room_gib(free: int, total: int) -> float:
    """Of a card in GiB, to one place: all but the margin, or what others leave of it."""
    return int(10 * min(total / GIB - _MARGIN, free / GIB)) / 10


def fitted(
    settings: BenchSettings, config: Mapping[str, Any], world_size: int, run_dir: Path
) -> tuple[BenchSettings, str]:
    """The settings with the checkpointing that their card needs, none where they name no card; and what to announce.

    Raises:
        StageError: the card is too small whatever is checkpointed, or ranks would wait for each other.
    """
    zero = Zero.of(config, world_size)
    if settings.stock and zero.stage == 3 and world_size > 1:
        raise StageError(
            f"--stock: got ZeRO-3 on {world_size} ranks, expected another stage or one rank: a batch without an "
            "image does not call the tower, and other ranks would wait there; take ds_configs/zero1.json or zero2.json"
        )
    if settings.checkpointing is not None or settings.gpu_gib is None:
        settings = replace(settings, checkpointing=settings.checkpointing or CheckpointingSection())
        return settings, f"checkpointed layers: {_described(bench_stage(settings, config, run_dir), zero)}"
    counts = _fewest(bench_stage(settings, config, run_dir), zero, settings.gpu_gib)
    if counts is None:
        raise StageError(
            f"--gpu-memory: got {settings.gpu_gib:g} GiB, too little with every layer checkpointed; lower --tokens and "
            "--tiles, or take another --ds_config"
        )
    settings = replace(settings, checkpointing=CheckpointingSection(**counts))
    said = _described(bench_stage(settings, config, run_dir), zero)
    return settings, f"checkpointed layers, chosen for {settings.gpu_gib:g} GiB: {said}"


def bench_stage(settings: BenchSettings, config: Mapping[str, Any], run_dir: Path) -> Stage:
    """The stage that is measured, without weights."""
    recipe, dtype = bench_recipe(settings, run_dir), getattr(torch, precision(config))
    return stock_stage(recipe, dtype) if settings.stock else make_stage(recipe, dtype, loaded=False)


def expected_memory(stage: Stage, zero: Zero) -> Memory:
    """The estimate of the recipe's own settings."""
    return stock_memory(stage, zero, as_in_recipe(stage)) if isinstance(stage, StockStage) else memory_of(stage, zero)


def _fewest(stage: Stage, zero: Zero, gpu_gib: float) -> dict[str, int] | None:
    """Layers to be checkpointed; of a stock model none or all."""
    if not isinstance(stage, StockStage):
        return fewest_checkpointed(stage, zero, gpu_gib)
    every = {name: len(layers) for name, layers in stage.layers().items()}
    tried = (dict.fromkeys(every, 0), every)
    return next((counts for counts in tried if stock_memory(stage, zero, counts).peak <= gpu_gib * GIB), None)


def _described(stage: Stage, zero: Zero) -> str:
    layers = [f"{name} {stage.num_checkpointed(name)} of {len(every)}" for name, every in stage.layers().items()]
    return f"{', '.join(layers)}; {expected_memory(stage, zero).peak / GIB:.1f} GiB estimated"
