"""Step time of the training loop against a bare DeepSpeed loop over the same batches, on two ranks.

    python -m benchmarks.loop_overhead --steps 12 --rounds 5 --out runs/bench/loop_overhead.json

Both live in the same two processes, on one engine, and take turns, so that both meet the same load; a round is so many
steps of each. Bare is forward, backward and step, with the sum of the weights that the exact mean needs; the loop adds
metrics, guards, watchdog and the log steps of its recipe. Batches are read before. Medians over rounds, by the clock
and in processor time of the main rank, which other jobs on the machine disturb less.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.multiprocessing as mp
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_shards.atomic import write_json
from data_shards.collate import Batch
from trainer import dist
from trainer.config import Recipe, load_recipe
from trainer.data import make_data
from trainer.ds_config import load_ds_config, resolve
from trainer.engine import Engine
from trainer.loggers import make_logger
from trainer.loop import Run, fit
from trainer.stages import make_stage
from trainer.stages.base import Stage
from trainer.state import StopRequest, TrainState
from trainer.stop_check import StopCheck

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "ds_configs" / "cpu_zero3.json"
WORLD = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/bench/shards"), help="shards with questions")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "tiny" / "teacher-vlm")
    parser.add_argument("--steps", type=int, default=12, help="of each loop in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        mp.spawn(_rank, (dist.free_port(), options, Path(directory)), nprocs=WORLD)
        result = json.loads((Path(directory) / "result.json").read_text())
    print(json.dumps(result, indent=2))
    if options.out:
        write_json(options.out, result)
    return 0


def _rank(rank: int, port: int, options: argparse.Namespace, directory: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port), DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    ranks = dist.init()
    recipe = _recipe(options, directory)
    config = resolve(load_ds_config(CONFIG), recipe, world_size=WORLD, config_path=CONFIG, recipe_path=CONFIG)
    stage = make_stage(recipe, torch.float32)
    data = make_data(recipe, stage.text, ranks, stage.cost())
    batches = [step for step, _ in zip(data.loader(ranks, 0), range(options.steps), strict=False)]
    engine = Engine(stage.model, stage.parameter_groups(), config)
    engine.set_lr(1.0)
    stage.train_mode()
    ways: dict[str, Callable[[], None]] = {
        "bare": lambda: _bare(stage, engine, batches, ranks),
        "loop": lambda: _loop(recipe, stage, engine, batches, ranks),
    }
    for act in ways.values():
        act()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name in sorted(ways, reverse=bool(number % 2)):
            ranks.barrier()
            began, used = time.perf_counter(), time.process_time()
            ways[name]()
            processor[name].append((time.process_time() - used) / options.steps)
            ranks.barrier()
            seconds[name].append((time.perf_counter() - began) / options.steps)
    ranks.on_main(
        lambda: (directory / "result.json").write_text(
            json.dumps({"clock": _result(seconds), "processor": _result(processor)})
        )
    )
    os._exit(0)


def _bare(stage: Stage, engine: Engine, batches: Sequence[list[Batch]], ranks: dist.Ranks) -> None:
    for step in batches:
        weight = ranks.sum([sum(map(stage.weight, step))])[0]
        for batch in step:
            engine.backward(stage.loss(engine, batch, engine.device).total * (WORLD * len(step) / weight))
            engine._engine.step()


def _loop(recipe: Recipe, stage: Stage, engine: Engine, batches: Sequence[list[Batch]], ranks: dist.Ranks) -> None:
    logger = make_logger(ranks, recipe.run_dir, title="loop", steps=recipe.steps, done=0)
    checkpoints: Any = SimpleNamespace(busy=False, finish=lambda: None)  # none is due
    run = Run(
        recipe=recipe,
        ranks=ranks,
        stage=stage,
        engine=engine,
        batches=iter(batches),
        advance=lambda position, packs: position + packs,
        checkpoints=checkpoints,
        logger=logger,
        stop=StopCheck(StopRequest(), ranks),
    )
    fit(run, TrainState())
    logger.close()


def _result(seconds: dict[str, list[float]]) -> dict[str, object]:
    ratios = [loop / bare for loop, bare in zip(seconds["loop"], seconds["bare"], strict=True)]
    return {
        "bare_step_seconds": statistics.median(seconds["bare"]),
        "loop_step_seconds": statistics.median(seconds["loop"]),
        "ratio_of_medians": statistics.median(seconds["loop"]) / statistics.median(seconds["bare"]),
        "median_of_ratios": statistics.median(ratios),
        "rounds": seconds,
    }


def _recipe(options: argparse.Namespace, directory: Path) -> Recipe:
    tree = {
        "stage": "finetune",
        "run_dir": str(directory / "run"),
        "steps": options.steps,
        "model": {"vlm": str(options.model)},
        "data": {
            "datasets": [{"path": str(options.data)}],
            "view": {"tile_size": 112, "max_tiles": 1, "thumbnail": False},
            "max_tokens": 2048,
            "max_tiles": 36,
            "questions_per_visit": 10,
            "workers": 0,
        },
        "log_every": options.log_every,
        "checkpoint_every": 0,
    }
    path = directory / f"recipe-{os.environ['RANK']}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_recipe(path)[0]


if __name__ == "__main__":
    sys.exit(main())
