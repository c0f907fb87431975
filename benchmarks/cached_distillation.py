"""Cached against online distillation: tiles/s of training, and bytes of the cache.

    python -m benchmarks.cached_distillation --out runs/bench/cached_distillation.json

A random teacher and student, whose FLOPs a tile are in the ratio of InternViT-6B to InternViT-300M. Steps are those of
the distill stage on one process: reading, decoding and tiling, teacher or its targets, student, backward pass, AdamW.
Processor time is given beside the clock, since it does not depend on what else the machine does.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from data_shards.atomic import write_json
from data_shards.dataset_file import read_dataset_file
from data_shards.sources.synthetic import driving_frames
from data_shards.teacher_targets import TargetsRecord
from data_shards.write import write_shards
from models.flops import vision_flops
from models.presets import vision_config
from models.saving import save_model
from models.vlm import build_vision
from trainer import dist
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.dist import Ranks
from trainer.recipe import Recipe
from trainer.stages import make_stage
from trainer.stages.base import Preparation
from trainer.targets.make import make_codebook, make_targets

ROOT = Path(__file__).resolve().parents[1]
TEACHER = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 8}
STUDENT = {"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 1024, "num_hidden_layers": 4}
KEPT = (8, 32, 0)
FRAMES, TILES = 16, 48


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 where cached training is less than four times as fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/bench/cached"), help="made anew")
    parser.add_argument("--steps", type=int, default=5, help="of each student; the first is not counted")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    shutil.rmtree(options.work_dir, ignore_errors=True)
    options.work_dir.mkdir(parents=True)
    ranks = dist.init()
    result = measure(options.work_dir, options.steps, ranks)
    dist.teardown()
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)
    return 0 if min(own["times_online"] for own in result["cached"].values()) >= 4 else 1


def measure(work: Path, steps: int, ranks: Ranks) -> dict[str, Any]:
    """Tiles a second of processor time and of the clock, with the teacher and with its cached targets."""
    ratio = _make_pair(work)
    frames = driving_frames(seed=1, scenes=range(FRAMES), frames_per_scene=1, image_width=400)
    write_shards(frames, work / "shards", source="synthetic", licence="generated")
    make_codebook(_recipe(work, None), print)
    online = _train(_recipe(work, None), steps, ranks)
    cached = {}
    for top_k in KEPT:
        recipe = _recipe(work, top_k)
        began = time.process_time()
        make_targets(recipe, (0, 1), print)
        writing = (time.process_time() - began) / (6 * FRAMES)
        own = _train(recipe, steps, ranks)
        cached[f"k={top_k or 'all'}"] = {
            **own,
            "times_online": round(own["tiles_per_processor_s"] / online["tiles_per_processor_s"], 2),
            "times_online_by_the_clock": round(own["tiles_per_s"] / online["tiles_per_s"], 2),
            "writing_processor_s_per_tile": round(writing, 4),
            "bytes_per_tile": _bytes_per_tile(work / f"targets-{top_k}"),
        }
    full = vision_flops(vision_config("internvit-6b")) / vision_flops(vision_config("internvit-300m"))
    return {
        "flops_ratio": round(ratio, 2),
        "flops_ratio_full_size": round(full, 2),
        "threads": torch.get_num_threads(),
        "online": online,
        "cached": cached,
    }


def _train(recipe: Recipe, steps: int, ranks: Ranks) -> dict[str, float]:
    """Steps of the stage; medians over those behind the first."""
    stage = make_stage(recipe, torch.float32)
    data = make_data(recipe, stage.text, None)
    device = ranks.device()
    stage.prepare(Preparation(ranks=ranks, device=device, run_dir=recipe.run_dir, first_batches=data.first_batches))
    stage.train_mode()
    optimizer = torch.optim.AdamW(stage.model.parameters(), lr=1e-3)
    batches = iter(data.loader(ranks, 0))
    rates: list[tuple[float, float]] = []
    for _ in range(steps):
        processor, clock = time.process_time(), time.perf_counter()
        (batch,) = next(batches)
        (stage.loss(stage.model, batch, device).total / stage.weight(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        tiles = stage.weight(batch)
        rates.append((tiles / (time.process_time() - processor), tiles / (time.perf_counter() - clock)))
    processor_rates, clock_rates = zip(*rates[1:], strict=True)
    return {
        "tiles_per_processor_s": round(statistics.median(processor_rates), 2),
        "tiles_per_s": round(statistics.median(clock_rates), 2),
    }


def _make_pair(work: Path) -> float:
    """Save a random teacher and student; returns the ratio of their FLOPs a tile."""
    generator = torch.Generator().manual_seed(0)
    flops = []
    for name, preset, sizes in (("teacher", "tiny-teacher", TEACHER), ("student", "tiny-student", STUDENT)):
        config = vision_config(preset)
        for field, value in sizes.items():
            setattr(config, field, value)
        save_model(build_vision(config, generator), work / name)
        flops.append(vision_flops(config))
    return flops[0] / flops[1]


def _recipe(work: Path, top_k: int | None) -> Recipe:
    """The recipe of a student: with its teacher, or (`top_k`) with cached targets."""
    dataset = {"path": str(work / "shards"), "name": "driving"}
    recipe: dict[str, Any] = {
        "stage": "distill",
        "run_dir": str(work / "run"),
        "steps": 1,
        "model": {"teacher": str(work / "teacher"), "student": str(work / "student")},
        "data": {
            "datasets": [dataset if top_k is None else {**dataset, "targets": str(work / f"targets-{top_k}")}],
            "view": {"tile_size": 112, "max_tiles": 1, "thumbnail": False},
            "max_tiles": TILES,
            "workers": 0,
        },
        "distill": {
            "features": 0.0,
            "codebook": str(work / "codebook.safetensors"),
            "codebook_size": 512,
            "codebook_tiles": TILES,
            "codebook_iterations": 2,
            "top_k": top_k or 0,
        },
    }
    path = work / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return load_recipe(path)[0]


def _bytes_per_tile(targets: Path) -> dict[str, float]:
    """Measured with tiny tiles; for 448 px tiles of 1,024 patches from the types and shapes of the members."""
    info = read_dataset_file(targets)
    record = TargetsRecord.of_build(info.build) if info else None
    assert info is not None
    assert record is not None
    full = replace(record, patches=1024, entries=1024)
    arrays = sum(2 * math.prod(shape) for _, shape in full.shapes(1).values())
    return {"measured_64_patches": round(info.num_bytes / (6 * FRAMES), 1), "arrays_1024_patches": arrays}


if __name__ == "__main__":
    sys.exit(main())
