"""Settings in; a stage of training with random weights on the real engine, timed part by part, out."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_shards.collate import Batch
from trainer.adamw import choose_adamw
from trainer.bench.collectives import timed_collectives
from trainer.bench.feed import make_feed
from trainer.bench.figures import Taken, figures
from trainer.bench.fit import bench_stage, expected_memory, fitted, with_room
from trainer.bench.parts import last_backward, parts_of
from trainer.bench.settings import BenchSettings, bench_recipe, write_codebook
from trainer.bench.timeline import TimedEngine, Timeline, watched
from trainer.bench.weights import with_pattern
from trainer.dist import Ranks
from trainer.ds_config import load_ds_config, resolve, zero_stage
from trainer.engine_partition import Partition
from trainer.loop import train_step
from trainer.memory import Zero
from trainer.stages.base import Preparation, Stage
from trainer.tensor_cores import use_tensor_cores


def measure(settings: BenchSettings, ranks: Ranks, run_dir: Path) -> dict[str, Any]:
    """Run the steps and describe them.

    Args:
        settings: what to measure.
        ranks: all of this run.
        run_dir: an empty directory that all of them share.

    Returns:
        figures of this rank, ready for JSON; times in seconds, memory in bytes.
    """
    config, adamw = _config(settings, ranks, run_dir)
    use_tensor_cores(bench_recipe(settings, run_dir), config)
    if settings.cached:
        ranks.on_main(lambda: write_codebook(bench_recipe(settings, run_dir), settings.preset))
    settings, checkpointed = fitted(with_room(settings, ranks), config, ranks.world_size, run_dir)
    stage = with_pattern(bench_stage(settings, config, run_dir))
    feed = make_feed(stage, settings, ranks)
    expected = expected_memory(stage, Zero.of(config, ranks.world_size))
    groups = stage.parameter_groups()
    stage.load(Partition(config, ranks) if zero_stage(config) == 3 else None)
    engine = TimedEngine(stage.model, groups, config)
    engine.timeline, engine.last_backward = Timeline(engine.device), last_backward(stage)
    stage.prepare(
        Preparation(ranks=ranks, device=engine.device, run_dir=run_dir, first_batches=feed.first_batches),
    )
    stage.train_mode()
    with ExitStack() as stack:
        for part in parts_of(stage):
            stack.enter_context(watched(engine.timeline, *part))
        stack.enter_context(timed_collectives(engine.timeline))
        bench = _Bench(settings=settings, stage=stage, engine=engine, ranks=ranks)
        shown, wall = bench.run(feed.steps())
    taken = Taken(batches=shown, timeline=engine.timeline, wall=wall, note=feed.note)
    return {"optimiser": adamw, "checkpointed": checkpointed, **figures(settings, stage, taken, expected, ranks)}


def _config(settings: BenchSettings, ranks: Ranks, run_dir: Path) -> tuple[dict[str, Any], str]:
    """The configuration, and what to say of its optimiser."""
    recipe = bench_recipe(settings, run_dir)
    config = resolve(
        load_ds_config(settings.ds_config),
        recipe,
        world_size=ranks.world_size,
        config_path=settings.ds_config,
        recipe_path=Path("bench"),
    )
    return choose_adamw(config, recipe.optim.kernel, ranks.device())


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """What the steps are run with."""

    settings: BenchSettings
    stage: Stage
    engine: TimedEngine
    ranks: Ranks

    def run(self, steps: Iterator[list[Batch]]) -> tuple[list[Batch], float]:
        """All steps; returns the batches of those measured, and their seconds by the host's clock."""
        for _ in range(self.settings.warmup):
            self._step(steps)
        cuda = self.engine.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.engine.timeline.clear()
        begin = time.perf_counter()
        shown = [batch for _ in range(self.settings.steps) for batch in self._step(steps)]
        if cuda:
            torch.cuda.synchronize()
        return shown, time.perf_counter() - begin

    def _step(self, steps: Iterator[list[Batch]]) -> list[Batch]:
        timeline = self.engine.timeline
        timeline.begin()
        batches = next(steps)
        timeline.mark("data wait")
        (weight,) = self.ranks.sum([sum(map(self.stage.weight, batches))])
        train_step(self.stage, self.engine, batches, weight=weight, world_size=self.ranks.world_size)
        timeline.end()
        return batches
