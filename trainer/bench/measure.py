"""Settings in; a stage of training with random weights and packs on the real engine, timed part by part, out."""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data_shards.collate import Batch, step_counts
from models.attention import pack_layout
from models.flops import forward_flops, vision_flops
from trainer.bench.packs import random_batches, useful_tokens
from trainer.bench.settings import BenchSettings, bench_recipe, pack_settings
from trainer.bench.timeline import TimedEngine, Timeline, watched
from trainer.dist import Ranks
from trainer.ds_config import load_ds_config, precision, resolve, zero_stage
from trainer.engine import Partition
from trainer.fit import fewest_checkpointed, memory_of
from trainer.loop import train_step
from trainer.memory import Memory, Zero
from trainer.recipe import CheckpointingSection
from trainer.stages import make_stage
from trainer.stages.base import Preparation, Stage
from trainer.stages.distill import DistillStage
from trainer.stages.sources import StageError
from trainer.stages.vlm import VlmStage

PEAKS = {"H200": 989.4, "H100": 989.4, "A100": 312.0, "B200": 2250.0}
"""Dense bfloat16 TFLOP/s of NVIDIA's data sheets (SXM), by a part of the device's name."""

_PACKS = 4
"""Different packs, taken in turn."""


def measure(settings: BenchSettings, ranks: Ranks, run_dir: Path) -> dict[str, Any]:
    """Run the steps and describe them.

    Args:
        settings: what to measure.
        ranks: all of this run.
        run_dir: an empty directory that all of them share.

    Returns:
        figures of this rank, ready for JSON; times in seconds, memory in bytes.
    """
    config = _config(settings, ranks, run_dir)
    settings = fitted(settings, config, ranks.world_size, run_dir)
    stage = make_stage(bench_recipe(settings, run_dir), getattr(torch, precision(config)), loaded=False)
    batches = _batches(stage, settings, ranks)
    expected = memory_of(stage, Zero.of(config, ranks.world_size))
    groups = stage.parameter_groups()
    stage.load(Partition(config, ranks) if zero_stage(config) == 3 else None)
    engine = TimedEngine(stage.model, groups, config)
    engine.timeline, engine.last_backward = Timeline(engine.device), _last_backward(stage)
    stage.prepare(Preparation(ranks=ranks, device=engine.device, run_dir=run_dir, first_batches=lambda: iter(batches)))
    stage.train_mode()
    with ExitStack() as stack:
        for name, first, last, before in _parts(stage):
            stack.enter_context(watched(engine.timeline, name, first, last, before))
        shown, wall = _run(stage, engine, batches, settings, ranks)
    return _describe(settings, stage, engine, shown, wall, expected, ranks)


def fitted(settings: BenchSettings, config: Mapping[str, Any], world_size: int, run_dir: Path) -> BenchSettings:
    """The settings with the checkpointing that a card needs, where they name one.

    Raises:
        StageError: the card is too small whatever is checkpointed.
    """
    if settings.gpu_gib is None:
        return settings
    stage = make_stage(bench_recipe(settings, run_dir), getattr(torch, precision(config)), loaded=False)
    counts = fewest_checkpointed(stage, Zero.of(config, world_size), settings.gpu_gib)
    if counts is None:
        raise StageError(
            f"--gpu-memory: got {settings.gpu_gib:g} GiB, too little with every layer checkpointed; lower --tokens and "
            "--tiles, or take another --ds_config"
        )
    return replace(settings, checkpointing=CheckpointingSection(**counts))


def _config(settings: BenchSettings, ranks: Ranks, run_dir: Path) -> dict[str, Any]:
    return resolve(
        load_ds_config(settings.ds_config),
        bench_recipe(settings, run_dir),
        world_size=ranks.world_size,
        config_path=settings.ds_config,
        recipe_path=Path("bench"),
    )


def _batches(stage: Stage, settings: BenchSettings, ranks: Ranks) -> list[Batch]:
    batches = random_batches(pack_settings(stage, settings), stage.cost(), _PACKS, seed=ranks.rank)
    return [batch.pin_memory() for batch in batches] if ranks.device().type == "cuda" else batches


def _run(
    stage: Stage, engine: TimedEngine, batches: Sequence[Batch], settings: BenchSettings, ranks: Ranks
) -> tuple[list[Batch], float]:
    """All steps; returns the batches of those measured, and their seconds by the host's clock."""
    cuda = engine.device.type == "cuda"
    shown: list[Batch] = []
    begin = time.perf_counter()
    for step in range(settings.warmup + settings.steps):
        if step == settings.warmup:
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            engine.timeline.steps.clear()
            begin = time.perf_counter()
        batch = batches[step % len(batches)]
        weight = stage.weight(batch) * ranks.world_size
        engine.timeline.begin()
        train_step(stage, engine, [batch], weight=weight, world_size=ranks.world_size)
        if step >= settings.warmup:
            shown.append(batch)
    if cuda:
        torch.cuda.synchronize()
    return shown, time.perf_counter() - begin


def _parts(stage: Stage) -> list[tuple[str, Any, Any, str]]:
    """Name, first and last module, and what precedes the gradient of its output in the backward pass."""
    if isinstance(stage, DistillStage):
        student = stage.exported()
        parts = [("student", student.embeddings, student.layernorm, "loss backward")]
        teacher = stage.teacher
        return [*parts, ("teacher", teacher.embeddings, teacher.layernorm, "")] if teacher is not None else parts
    assert isinstance(stage, VlmStage)
    model = stage.vlm.model
    return [
        ("vision", model.vision_tower, model.vision_tower, "projector backward"),
        ("projector", model.multi_modal_projector, model.multi_modal_projector, "language backward"),
        ("language", model.language_model, model.language_model, "loss backward"),
    ]


def _last_backward(stage: Stage) -> str:
    if isinstance(stage, DistillStage):
        return "student backward"
    assert isinstance(stage, VlmStage)
    trained = any(parameter.requires_grad for parameter in stage.vlm.model.vision_tower.parameters())
    return "vision backward" if trained else "projector backward"


def useful_flops(stage: Stage, batch: Batch) -> float:
    """FLOPs that the loss of a batch needs: nothing filled up, masked or computed twice."""
    if isinstance(stage, DistillStage):
        teacher = vision_flops(stage.teacher.config) if stage.teacher is not None else 0.0
        return batch.meta.num_tiles * (3 * vision_flops(stage.exported().config) + teacher)
    assert isinstance(stage, VlmStage)
    cost = stage.cost()
    real = (batch.input_ids != 0).int()
    tokens, pairs = 0, 0.0
    layout = pack_layout(batch.groups, batch.segment_ids)
    for (start, _), prefix, segments in zip(batch.groups, layout.prefix_lengths, layout.segment_lengths, strict=True):
        own = [int(part.sum()) for part in real[start + prefix : start + prefix + sum(segments)].split(list(segments))]
        tokens += prefix + sum(own)
        pairs += prefix * (prefix + 1) / 2 + sum(prefix * n + n * (n + 1) / 2 for n in own)
    head = stage.passes[2] * forward_flops(stage.vlm.config).label * len(batch.label_targets)
    return cost.token * tokens + cost.tile * batch.meta.num_tiles + cost.pair * pairs + head


def _describe(
    settings: BenchSettings,
    stage: Stage,
    engine: TimedEngine,
    shown: Sequence[Batch],
    wall: float,
    expected: Memory,
    ranks: Ranks,
) -> dict[str, Any]:
    seconds = engine.timeline.seconds()
    step = statistics.median(times["step"] for times in seconds)
    counts = step_counts(shown)
    flops = sum(useful_flops(stage, batch) for batch in shown)
    whole = sum(times["step"] for times in seconds)
    cuda = engine.device.type == "cuda"
    device = torch.cuda.get_device_name() if cuda else "cpu"
    peak = settings.peak_tflops or next((PEAKS[name] for name in PEAKS if name in device), None)
    return {
        "settings": {name: str(value) for name, value in vars(settings).items()},
        "device": device,
        "world_size": ranks.world_size,
        "torch": torch.__version__,
        "attention": stage.notes()[0],
        "seconds": {name: _spread([times.get(name, 0.0) for times in seconds]) for name in _names(seconds)},
        "wall_seconds_a_step": wall / len(shown),
        "median_step_seconds": step,
        "tokens_per_s": sum(map(useful_tokens, shown)) / whole,
        "tiles_per_s": counts.tiles / whole,
        "questions_per_s": counts.questions / whole,
        "useful_tflops": flops / whole / 1e12,
        "peak_tflops": peak,
        "useful_mfu": flops / whole / 1e12 / peak if peak else None,
        "memory": {
            "estimated": {**expected.parts, "peak": expected.peak},
            "measured_peak": torch.cuda.max_memory_reserved() if cuda else None,
        },
        "data": "random packs, made beforehand: no step waits for data",
        "communication": "none" if ranks.world_size == 1 else "within the parts, overlapped: not measured apart",
    }


def _names(seconds: Sequence[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for times in seconds for name in times))


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the values below which lie a tenth and nine tenths."""
    ordered = sorted(values)
    at = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "p10": ordered[round(0.1 * at)],
        "p90": ordered[round(0.9 * at)],
    }
