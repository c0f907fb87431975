"""Sizes in, how long training stands still for a checkpoint out: in the background, waited for, as DeepSpeed writes it.

`python -m benchmarks.checkpoint_pause [--millions 20] [--repeat 3] [--directory DIR]`
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from trainer import dist
from trainer.checkpoint import Checkpoints
from trainer.engine import Engine
from trainer.optim import ParamGroup
from trainer.state import TrainState

WIDTH = 1000


def make_engine(millions: int) -> Engine:
    """Layers of a million parameters under ZeRO-3, after one step."""
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(millions)])
    group = ParamGroup(name="all", module="all", lr=1e-3, weight_decay=0.0, parameters=tuple(model.parameters()))
    config = {
        "train_batch_size": 1,
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 1e-3}},
        "zero_optimization": {"stage": 3},
    }
    engine = Engine(model, [group], config)
    engine.backward(engine(torch.ones(1, WIDTH)).square().mean())
    engine.step()
    return engine


def deepspeed_save(engine: Engine, directory: Path) -> None:
    """DeepSpeed's own files, then hashed and synced as a safe checkpoint needs."""
    engine._engine.save_checkpoint(str(directory), tag="state", save_latest=False)
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            hashlib.file_digest(file, "sha256")


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def measure(engine: Engine, ranks: dist.Ranks, directory: Path, repeat: int) -> dict[str, float]:
    """Medians of seconds, the three ways in turn."""
    times: dict[str, list[float]] = {"deepspeed": [], "waited for": [], "background": []}
    checkpoints = Checkpoints(root=directory / "own", ranks=ranks, keep=1, recipe="", say=print)
    checkpoints.root.mkdir()
    for i in range(repeat):
        target = directory / f"deepspeed-{i}"
        times["deepspeed"].append(seconds(partial(deepspeed_save, engine, target)))
        shutil.rmtree(target)
        pause = seconds(partial(checkpoints.save, engine, TrainState(step=i)))
        times["background"].append(pause)
        times["waited for"].append(pause + seconds(checkpoints.finish))
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, default=20, help="of trained parameters")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="on the disk to measure; the temporary one by default")
    options = parser.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        ranks = dist.init()
        engine = make_engine(options.millions)
        result = {"million parameters": options.millions, **measure(engine, ranks, Path(directory), options.repeat)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
