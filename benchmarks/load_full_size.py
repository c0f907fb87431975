"""A preset's name in; the peak memory of making, loading under ZeRO-3 and writing a checkpoint of that size out.

`python benchmarks/load_full_size.py --scratch DIR` makes a random bfloat16 checkpoint, loads it on two ranks under
ZeRO-3 on the CPU without an optimiser, writes it from its parts, and compares the two bit for bit. DIR needs room for
both (9 GB for `drivlm-2b`) and is left as it was found.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from models.blanks import drawn_vlm, stored_vlm
from models.loading import fill
from models.presets import vlm_preset
from models.saving import ModelWriter
from models.sharded_safetensors import ShardedReader
from trainer import dist
from trainer.engine import Partition
from trainer.run_dir import write_model

ALLOWANCE = 1_500_000_000
"""Bytes above partition and largest tensor that a rank may use."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where the two checkpoints differ or a rank needs more than the bound to load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="drivlm-2b", help="of models.presets.VLM_PRESETS")
    parser.add_argument("--scratch", type=Path, required=True, help="directory for the checkpoints")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/load_full_size.json"))
    options = parser.parse_args(arguments)
    made, written = options.scratch / "made", options.scratch / "written"
    options.scratch.mkdir(parents=True, exist_ok=True)
    try:
        report = _measure(options.preset, made, written, options.ranks)
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(written, ignore_errors=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    _print(report)
    print(f"report: {options.out}")
    return 0 if report["identical"] and report["load_within_bound"] else 1


def _measure(preset: str, made: Path, written: Path, ranks: int) -> dict[str, Any]:
    steps = [_in_process(_make, preset, made)]
    reader = ShardedReader(made)
    sizes = [math.prod(reader.shape(name)) * reader.dtype(name).itemsize for name in reader.names]
    bound = sum(sizes) // ranks + max(sizes) + ALLOWANCE
    steps += _on_ranks(made, written, ranks)
    identical = _identical(made, written)
    worst = {kind: max(step["peak_rss"] for step in steps if step["step"] == kind) for kind in ("load", "write")}
    return {
        "preset": preset,
        "parameters": sum(math.prod(reader.shape(name)) for name in reader.names),
        "checkpoint_bytes": sum(sizes),
        "largest_tensor_bytes": max(sizes),
        "ranks": ranks,
        "bound_bytes": bound,
        "load_within_bound": worst["load"] <= bound,
        "write_within_bound": worst["write"] <= bound,
        "identical": identical,
        "steps": steps,
    }


def _make(preset: str, directory: Path, results: Any) -> None:
    """A checkpoint of normal deviates, one tensor at a time."""
    started = time.monotonic()
    model = drawn_vlm(vlm_preset(preset), torch.Generator().manual_seed(0)).model.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    with ModelWriter(model, directory) as writer:
        for name, parameter in model.named_parameters():
            writer.add(name, torch.empty(parameter.shape, dtype=torch.bfloat16).normal_(std=0.02, generator=generator))
    results.put(_step("make", 0, started))


def _load_and_write(rank: int, world: int, port: int, made: Path, written: Path, results: Any) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, DS_ACCELERATOR="cpu")
    ranks = dist.init()
    partition = Partition(_config(world), ranks)
    results.put(_step("start", rank, time.monotonic()))
    started = _reset_peak()
    model = fill(stored_vlm(made), torch.bfloat16, partition)
    partition.serve(model)
    results.put(_step("load", rank, started))
    ranks.barrier()
    started = _reset_peak()
    write_model(model, ranks, written)
    results.put(_step("write", rank, started))
    ranks.barrier()
    results.close()
    results.join_thread()
    os._exit(0)


def _config(world: int) -> Mapping[str, Any]:
    return {
        "train_batch_size": world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }


def _on_ranks(made: Path, written: Path, world: int) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = [
        context.Process(target=_load_and_write, args=(rank, world, port, made, written, results))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(f"a rank failed: exit statuses {[process.exitcode for process in processes]}")
    return sorted(
        (results.get() for _ in range(3 * world)),
        key=lambda step: ("start load write".find(step["step"]), step["rank"]),
    )


def _in_process(function: Any, *arguments: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    process = context.Process(target=function, args=(*arguments, results))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed with exit status {process.exitcode}")
    return results.get()


def _identical(one: Path, other: Path) -> bool:
    first, second = ShardedReader(one), ShardedReader(other)
    return sorted(first.names) == sorted(second.names) and all(
        torch.equal(first.tensor(name).view(torch.int16), second.tensor(name).view(torch.int16)) for name in first.names
    )


def _step(name: str, rank: int, started: float) -> dict[str, Any]:
    return {"step": name, "rank": rank, "peak_rss": _peak(), "seconds": round(time.monotonic() - started, 1)}


def _peak() -> int:
    """Largest resident size in bytes since the last `_reset_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _reset_peak() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return time.monotonic()


def _print(report: Mapping[str, Any]) -> None:
    print(f"{report['preset']}: {report['parameters']:,} parameters, {report['checkpoint_bytes'] / 1e9:.2f} GB")
    for step in report["steps"]:
        print(f"{step['step']:<8} rank {step['rank']}  peak {step['peak_rss'] / 1e9:6.2f} GB  {step['seconds']:7.1f} s")
    print(f"bound of loading {report['bound_bytes'] / 1e9:.2f} GB, kept: {report['load_within_bound']}")
    print(f"writing within the same bound: {report['write_within_bound']}; identical: {report['identical']}")


if __name__ == "__main__":
    raise SystemExit(main())
