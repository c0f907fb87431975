"""Cached against online distillation: tiles/s of training, and bytes of the cache.

    python -m benchmarks.cached_distillation --out runs/bench/cached_distillation.json

Speed is that of `trainer/run.py` on one rank, with a random teacher and student whose FLOPs a tile are in the ratio of
InternViT-6B to InternViT-300M.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from data_shards.atomic import write_atomically
from data_shards.dataset_file import read_dataset_file
from data_shards.teacher_targets import TargetsRecord
from models.flops import vision_flops
from models.presets import vision_config
from models.saving import save_model
from models.vlm import build_vision

ROOT = Path(__file__).resolve().parents[1]
TEACHER = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 8}
STUDENT = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "num_hidden_layers": 4}
KEPT = (8, 32, 0)
TILES = 48


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 where cached training is less than four times as fast."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/bench/cached"), help="made anew")
    parser.add_argument("--steps", type=int, default=8, help="of each run; the first two are not counted")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    shutil.rmtree(options.work_dir, ignore_errors=True)
    options.work_dir.mkdir(parents=True)
    result = measure(options.work_dir, options.steps)
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, (json.dumps(result, indent=2) + "\n").encode())
    return 0 if result["cached_over_online"]["k=8"] >= 4 else 1


def measure(work: Path, steps: int) -> dict[str, Any]:
    """Tiles/s of training with the teacher and with its cached targets, and bytes of those."""
    ratio = _make_pair(work)
    _run("-m", "data_shards", "synthetic", "--scenes", "48", "--frames-per-scene", "1", "--image-width", "400",
         "--out", str(work / "shards"), "--processes", "1")  # fmt: skip
    recipes = {f"k={k or 'all'}": _recipe(work, steps, k) for k in KEPT}
    sizes, writing = {}, {}
    _targets(next(iter(recipes.values())), "--fit-codebook")
    for name, recipe in recipes.items():
        writing[name] = _targets(recipe)
        info = read_dataset_file(work / f"targets-{name}")
        assert info is not None
        sizes[name] = _bytes_per_tile(info.build, info.num_bytes / (6 * info.num_samples))
    online = _train(_recipe(work, steps, None))
    cached = {name: _train(recipe) for name, recipe in recipes.items()}
    return {
        "flops_ratio": round(ratio, 2),
        "flops_ratio_full_size": round(_tile_flops("internvit-6b") / _tile_flops("internvit-300m"), 2),
        "online": online,
        "cached": cached,
        "cached_over_online": {
            name: round(own["tiles_per_s"] / online["tiles_per_s"], 2) for name, own in cached.items()
        },
        "cached_over_online_processor_time": {
            name: round(online["processor_s_per_tile"] / own["processor_s_per_tile"], 2) for name, own in cached.items()
        },
        "writing_processor_s_per_tile": {name: round(seconds / (6 * 48), 4) for name, seconds in writing.items()},
        "bytes_per_tile": sizes,
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


def _tile_flops(preset: str) -> float:
    return vision_flops(vision_config(preset))


def _recipe(work: Path, steps: int, top_k: int | None) -> Path:
    """The recipe of a run: with its teacher, or (`top_k`) with cached targets."""
    name = "online" if top_k is None else f"k={top_k or 'all'}"
    dataset: dict[str, Any] = {"path": str(work / "shards"), "name": "driving"}
    if top_k is not None:
        dataset["targets"] = str(work / f"targets-{name}")
    recipe = {
        "stage": "distill",
        "run_dir": str(work / f"run-{name}"),
        "steps": steps,
        "model": {"teacher": str(work / "teacher"), "student": str(work / "student")},
        "data": {
            "datasets": [dataset],
            "view": {"tile_size": 112, "max_tiles": 1, "thumbnail": False},
            "max_tiles": TILES,
            "workers": 1,
        },
        "distill": {
            "features": 0.0,
            "codebook": str(work / "codebook.safetensors"),
            "codebook_size": 512,
            "codebook_tiles": TILES,
            "top_k": top_k or 0,
        },
        "log_every": 1,
        "checkpoint_every": 0,
    }
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def _targets(recipe: Path, *more: str) -> float:
    """Run the command; returns its processor time in seconds."""
    return _run("-m", "data_shards", "teacher-targets", "--recipe", str(recipe), *more)


def _train(recipe: Path) -> dict[str, float]:
    """One rank of `trainer/run.py`; rates over the steps behind the first two."""
    seconds = _run("trainer/run.py", "--ds_config", "ds_configs/cpu_zero3.json", "--recipe", str(recipe))
    metrics = [json.loads(line) for line in (_run_dir(recipe) / "metrics.jsonl").read_text().splitlines()]
    rates = sorted(line["rate/tiles_per_s"] for line in metrics[2:])
    return {
        "tiles_per_s": round(rates[len(rates) // 2], 2),
        "processor_s_per_tile": round(seconds / (TILES * len(metrics)), 5),
        "loss_first": metrics[0]["loss/total"],
        "loss_last": metrics[-1]["loss/total"],
    }


def _run_dir(recipe: Path) -> Path:
    return Path(yaml.safe_load(recipe.read_text())["run_dir"])


def _bytes_per_tile(build: Any, measured: float) -> dict[str, float]:
    """Measured with tiny tiles; for 448 px tiles of 1,024 patches from the types and shapes of the members."""
    record = TargetsRecord.of_build(build)
    assert record is not None
    full = replace(record, patches=1024, entries=1024)
    arrays = sum(2 * math.prod(shape) for _, shape in full.shapes(1).values())
    return {"measured_64_patches": round(measured, 1), "arrays_1024_patches": arrays}


def _run(*arguments: str) -> float:
    """Run a command of this Python; returns its processor time in seconds, without that of starting Python."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
