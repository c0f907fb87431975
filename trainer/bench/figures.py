"""Steps that were timed in; speed, time by part, communication, data wait and memory out, ready for JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data_shards.collate import Batch, step_counts
from models.flops import vision_flops
from trainer.bench.device_memory import measured_memory
from trainer.bench.flop_shares import flop_shares
from trainer.bench.packs import useful_tokens
from trainer.bench.parts import useful_flops
from trainer.bench.settings import BenchSettings
from trainer.bench.timeline import Timeline
from trainer.dist import Ranks
from trainer.memory import Memory
from trainer.stages.base import Stage
from trainer.stages.distill import DistillStage
from trainer.utilisation import peak_flops


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Steps that were run.

    Attributes:
        batches: of all of them.
        timeline: their marks.
        wall: their seconds by the host's clock.
        note: where the packs came from.
    """

    batches: Sequence[Batch]
    timeline: Timeline
    wall: float
    note: str


def figures(settings: BenchSettings, stage: Stage, taken: Taken, expected: Memory, ranks: Ranks) -> dict[str, Any]:
    """Of this rank; times in seconds, memory in bytes.

    `seconds` has every part and the whole `step`; the `shares` of the parts add up to one; `unaccounted` is the share
    of the host's time that is in no step.
    """
    seconds, beside = taken.timeline.seconds(), taken.timeline.seconds_beside()
    counts = step_counts(taken.batches)
    flops = sum(useful_flops(stage, batch) for batch in taken.batches)
    whole = sum(times["step"] for times in seconds)
    cuda = ranks.device().type == "cuda"
    device = torch.cuda.get_device_name() if cuda else "cpu"
    peak = peak_flops(device, settings.peak_tflops or 0.0)
    return {
        "settings": {name: str(value) for name, value in vars(settings).items()},
        "device": device,
        "world_size": ranks.world_size,
        "torch": torch.__version__,
        "choices": list(stage.notes()),
        "seconds": {name: spread([times.get(name, 0.0) for times in seconds]) for name in _names(seconds)},
        "median_step_seconds": statistics.median(times["step"] for times in seconds),
        "wall_seconds_a_step": taken.wall / len(seconds),
        "unaccounted": 1 - whole / taken.wall,
        "shares": {name: sum(t.get(name, 0.0) for t in seconds) / whole for name in _names(seconds) if name != "step"},
        "communication_beside_seconds": spread(beside),
        "tokens_per_s": sum(map(useful_tokens, taken.batches)) / whole,
        "tiles_per_s": counts.tiles / whole,
        "questions_per_s": counts.questions / whole,
        "useful_tflops": flops / whole / 1e12,
        "peak_tflops": peak and peak / 1e12,
        "useful_mfu": flops / whole / peak if peak else None,
        "flop_shares": flop_shares(stage, taken.batches),
        "teacher_mfu": _teacher_mfu(stage, taken.batches, seconds, peak),
        "memory": {
            "estimated": {**expected.parts, "peak": expected.peak},
            **measured_memory(ranks.device()),
        },
        "data": taken.note,
    }


def _teacher_mfu(
    stage: Stage, batches: Sequence[Batch], seconds: Sequence[dict[str, float]], peak: float | None
) -> float | None:
    """Of the forward passes of an online teacher alone."""
    if peak is None or not isinstance(stage, DistillStage) or stage.teacher is None:
        return None
    flops = sum(batch.meta.num_tiles for batch in batches) * vision_flops(stage.teacher.config)
    return flops / sum(times["teacher forward"] for times in seconds) / peak


def _names(seconds: Sequence[dict[str, float]]) -> list[str]:
    names = dict.fromkeys(name for times in seconds for name in times)
    return [*(name for name in names if name != "step"), "step"]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the values below which lie a tenth and nine tenths."""
    ordered = sorted(values)
    at = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "p10": ordered[round(0.1 * at)],
        "p90": ordered[round(0.9 * at)],
    }
