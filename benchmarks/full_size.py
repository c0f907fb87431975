"""A preset's name in; the peak memory of each step on the way of a checkpoint of that size through this project out.

`python -m benchmarks.full_size --scratch DIR` makes a random bfloat16 checkpoint in OpenGVLab's layout, converts it,
loads it on two ranks under ZeRO-3 on the CPU without an optimiser, writes it from its parts, exports that, converts the
export back, and compares beginning and end bit for bit; the same checkpoint as one pickled `.bin` file is converted
too. DIR needs room for seven of them (31 GB for `drivlm-2b`).
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size_tokenizer import write_tokenizer
from data_shards.atomic import write_json
from data_shards.tokenizer import load_tokenizer
from data_shards.view_layout import ViewLayout
from models.blanks import stored_vlm
from models.convert import convert
from models.convert.opengvlab_json import chat_json
from models.convert.plan import INTERNVL_IMAGE_TOKEN, INTERNVL_VOCABULARY
from models.convert.rules import steps_between
from models.convert.source import BIN_FILE
from models.loading import fill
from models.presets import vlm_preset
from models.sharded_safetensors import ShardedReader, ShardedWriter
from models.vlm import tile_side
from trainer import dist
from trainer.engine_partition import Partition
from trainer.export import export
from trainer.preprocessing import Preprocessing, write_preprocessing
from trainer.write_model import write_model

ALLOWANCE = 1_500_000_000
"""Bytes that a process may use above the largest tensor, and under ZeRO-3 above its part of the model too."""

PARTS = ("made", "pickled", "unpickled", "converted", "run", "exported", "back")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 where beginning and end differ or a step needs more than its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="drivlm-2b", help="of models.presets.VLM_PRESETS")
    parser.add_argument("--scratch", type=Path, required=True, help="directory for the checkpoints")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/full_size.json"))
    options = parser.parse_args(arguments)
    options.scratch.mkdir(parents=True, exist_ok=True)
    try:
        report = _measure(options.preset, options.scratch, options.ranks)
    finally:
        for name in () if options.keep else PARTS:
            shutil.rmtree(options.scratch / name, ignore_errors=True)
    write_json(options.out, report)
    _print(report)
    print(f"report: {options.out}")
    return 0 if report["identical"] and all(step["within_bound"] for step in report["steps"]) else 1


def _measure(preset: str, scratch: Path, ranks: int) -> dict[str, Any]:
    made, pickled, unpickled, converted, run, exported, back = (scratch / name for name in PARTS)
    steps = [_in_process("make", _make, preset, made), _in_process("convert", convert, made, converted)]
    _in_process("pickle", _pickle, made, pickled)
    steps.append(_in_process("convert .bin", _convert_pickle, pickled, unpickled))
    steps += _on_ranks(converted, run, ranks)
    steps.append(_in_process("export", export, run, exported))
    steps.append(_in_process("back", _convert_back, exported, back))
    reader = ShardedReader(made)
    sizes = [math.prod(reader.shape(name)) * reader.dtype(name).itemsize for name in reader.names]
    for step in steps:
        partition = sum(sizes) // ranks if step["step"] in ("load", "write") else 0
        step["bound"] = partition + max(sizes) + ALLOWANCE
        step["within_bound"] = step["peak_rss"] <= step["bound"]
    return {
        "preset": preset,
        "parameters": sum(math.prod(reader.shape(name)) for name in reader.names),
        "checkpoint_bytes": sum(sizes),
        "largest_tensor_bytes": max(sizes),
        "ranks": ranks,
        "identical": _identical(made, back) and _identical(converted, unpickled),
        "steps": steps,
    }


def _make(preset: str, directory: Path) -> None:
    """OpenGVLab's files, with random bits for weights, one tensor at a time."""
    config = vlm_preset(preset, vocab_size=INTERNVL_VOCABULARY, image_token_id=INTERNVL_IMAGE_TOKEN)
    generator = torch.Generator().manual_seed(1)
    with ShardedWriter(directory) as writer:
        for step in steps_between(config, to="opengvlab"):
            for name, shape in step.targets.items():
                bits = torch.empty(shape, dtype=torch.int16).random_(-(2**15), 2**15, generator=generator)
                writer.add(name, bits.view(torch.bfloat16))
    values = chat_json(config, directory / "config.json") | {"torch_dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(values))
    write_tokenizer(directory, INTERNVL_VOCABULARY)


def _pickle(made: Path, pickled: Path) -> None:
    """The same checkpoint as one file of `torch.save`."""
    shutil.copytree(made, pickled, ignore=shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json"))
    reader = ShardedReader(made)
    torch.save({name: reader.tensor(name) for name in reader.names}, pickled / BIN_FILE)


def _convert_pickle(pickled: Path, unpickled: Path) -> None:
    convert(pickled, unpickled, allow_pickle=True)


def _convert_back(exported: Path, back: Path) -> None:
    convert(exported, back, to="opengvlab")


def _load_and_write(rank: int, world: int, port: int, source: Path, run: Path, results: Any) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, DS_ACCELERATOR="cpu")
    ranks = dist.init()
    partition = Partition(_config(world), ranks)
    results.put(_step("start", rank, time.monotonic()))
    started = _reset_peak()
    model = fill(stored_vlm(source), torch.bfloat16, partition)
    partition.serve(model)
    results.put(_step("load", rank, started))
    ranks.barrier()
    started = _reset_peak()
    write_model(model, ranks, run / "model", lambda directory: _write_extras(source, tile_side(model), directory))
    results.put(_step("write", rank, started))
    ranks.barrier()
    results.close()
    results.join_thread()
    os._exit(0)


def _write_extras(source: Path, tile_size: int, directory: Path) -> None:
    load_tokenizer(source).save_pretrained(directory)
    write_preprocessing(Preprocessing(view=ViewLayout(tile_size=tile_size, mode="canvas")), directory)


def _config(world: int) -> Mapping[str, Any]:
    return {
        "train_batch_size": world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }


def _on_ranks(source: Path, run: Path, world: int) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = [
        context.Process(target=_load_and_write, args=(rank, world, port, source, run, results)) for rank in range(world)
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


def _in_process(name: str, function: Any, *arguments: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    process = context.Process(target=_run, args=(name, function, arguments, results))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name} failed with exit status {process.exitcode}")
    return results.get()


def _run(name: str, function: Any, arguments: Sequence[Any], results: Any) -> None:
    started = time.monotonic()
    function(*arguments)
    results.put(_step(name, 0, started))


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
    print(
        f"{report['preset']}: {report['parameters']:,} parameters, {report['checkpoint_bytes'] / 1e9:.2f} GB, largest "
        f"tensor {report['largest_tensor_bytes'] / 1e9:.2f} GB"
    )
    for step in report["steps"]:
        print(
            f"{step['step']:<12} rank {step['rank']}  peak {step['peak_rss'] / 1e9:5.2f} GB of at most "
            f"{step['bound'] / 1e9:.2f}  {step['seconds']:6.1f} s"
        )
    print(f"identical at the end: {report['identical']}")


if __name__ == "__main__":
    raise SystemExit(main())
