"""Measures a stage: `python -m trainer.bench --preset drivlm-2b --stage finetune --tokens 16384 --tiles 48 --out FILE`.

On several GPUs: `deepspeed --module trainer.bench ...`. Prints a table and writes JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from trainer import dist
from trainer.bench.measure import measure
from trainer.bench.settings import PRESETS, ROOT, BenchSettings
from trainer.loggers import announce, report_failure
from trainer.memory import GIB
from trainer.recipe import CheckpointingSection


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status."""
    options = _parser().parse_args(arguments)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    default = "zero1.json" if torch.cuda.is_available() else "cpu_zero3.json"
    settings = BenchSettings(
        preset=options.preset,
        stage=options.stage,
        ds_config=options.ds_config or ROOT / "ds_configs" / default,
        tokens=options.tokens,
        tiles=options.tiles,
        steps=options.steps,
        warmup=options.warmup,
        questions_per_visit=options.questions_per_visit,
        padded=options.padded,
        attention=options.attention,
        checkpointing=CheckpointingSection(vision=options.checkpoint_vision, language=options.checkpoint_language),
        peak_tflops=options.peak_tflops,
        gpu_gib=options.gpu_memory,
    )
    ranks = dist.init()
    try:
        with tempfile.TemporaryDirectory() as own:
            figures = measure(settings, ranks, Path(ranks.gather(own)[0]))
            ranks.barrier()
        announce(_table(figures))
        ranks.on_main(lambda: _write(options.out, figures))
    except ValueError as error:
        if type(error).__module__.partition(".")[0] not in ("trainer", "models", "data_shards"):
            raise
        report_failure(str(error), on_all_ranks=True)
        return 2
    finally:
        dist.teardown()
    return 0


def _write(path: Path, figures: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")


def _table(figures: dict[str, Any]) -> str:
    lines = [figures["attention"], f"{'part':<22}{'median s':>10}{'p10':>10}{'p90':>10}"]
    lines += [
        f"{name:<22}{values['median']:>10.4f}{values['p10']:>10.4f}{values['p90']:>10.4f}"
        for name, values in figures["seconds"].items()
    ]
    rates = ("tokens_per_s", "tiles_per_s", "questions_per_s", "useful_tflops")
    lines.append(", ".join(f"{name} {figures[name]:.4g}" for name in rates))
    if figures["useful_mfu"] is not None:
        lines.append(f"useful MFU {figures['useful_mfu']:.3f} of {figures['peak_tflops']:g} TFLOP/s (dense)")
    estimated, measured = figures["memory"]["estimated"]["peak"], figures["memory"]["measured_peak"]
    seen = f"{measured / GIB:.2f} GiB reserved at the peak" if measured else "not measured on a CPU"
    lines.append(f"memory: {estimated / GIB:.2f} GiB estimated, {seen}")
    return "\n".join(lines)


def _layers(text: str) -> Any:
    return text if text == "all" else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.bench", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="drivlm-2b")
    parser.add_argument("--stage", choices=("distill", "align", "finetune"), required=True)
    parser.add_argument("--tokens", type=int, default=16384, help="of a pack at most")
    parser.add_argument("--tiles", type=int, default=48, help="of a pack at most")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3, help="steps before those measured")
    parser.add_argument("--questions-per-visit", type=int, default=32, help="1: every question brings its own images")
    parser.add_argument("--padded", action="store_true", help="fill every conversation up to the longest")
    parser.add_argument("--attention", choices=("auto", "flash", "varlen", "flex", "sdpa"), default="auto")
    parser.add_argument("--checkpoint-vision", type=_layers, default=0, metavar="N", help="layers run again, or all")
    parser.add_argument("--checkpoint-language", type=_layers, default=0, metavar="N", help="layers run again, or all")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="checkpoint the fewest layers that fit into it")
    parser.add_argument("--peak-tflops", type=float, help="dense peak of the device, where its name is not known")
    parser.add_argument("--ds_config", type=Path, help="default: ds_configs/zero1.json, cpu_zero3.json without a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/step.json"))
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    return parser


if __name__ == "__main__":
    sys.exit(main())
