"""Measures a stage: `python -m trainer.bench --preset drivlm-2b --stage finetune --tokens 16384 --tiles 48 --out FILE`.

On several GPUs: `deepspeed --module trainer.bench ...`. Prints a table and writes JSON, both of the main rank.
"""

import argparse
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_shards.atomic import write_json
from trainer import dist
from trainer.bench.collectives import COMMUNICATION
from trainer.bench.frames import make_shards
from trainer.bench.measure import measure
from trainer.bench.settings import PRESETS, ROOT, BenchSettings
from trainer.checkpointing_section import CheckpointingSection
from trainer.loggers import announce, report_failure
from trainer.memory import GIB
from trainer.run import is_ours, leave


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.cached and (options.stage != "distill" or options.data or options.make_frames):
        parser.error("--cached: is for --stage distill, with random packs in memory")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not dist.num_gpus():
        os.environ["DS_ACCELERATOR"] = "cpu"
    default = "zero1.json" if dist.num_gpus() else "cpu_zero3.json"
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
        general=options.general,
        cached=options.cached,
        attention=options.attention,
        kernels=options.kernels,
        adamw=options.adamw,
        checkpointing=_checkpointing(options),
        peak_tflops=options.peak_tflops,
        gpu_gib=options.gpu_memory,
        data=options.data,
        workers=options.workers,
    )
    ranks = dist.init()
    try:
        with tempfile.TemporaryDirectory() as own:
            shared = Path(ranks.gather(own)[0])
            if options.make_frames:
                made = ranks.on_main(lambda: str(make_shards(shared / "frames", options.make_frames)))
                settings = replace(settings, data=Path(made))
            figures = measure(settings, ranks, shared)
            ranks.barrier()
        announce(_table(figures))
        ranks.on_main(lambda: write_json(options.out, figures))
    except ValueError as error:
        if not is_ours(error):
            raise
        report_failure(str(error), on_all_ranks=True)
        return 2
    finally:
        dist.teardown()
    return 0


def _table(figures: dict[str, Any]) -> str:
    lines = [
        *figures["choices"],
        figures["optimiser"],
        figures["checkpointed"],
        figures["data"],
        f"{'part':<22}{'median s':>10}{'p10':>10}{'p90':>10}",
    ]
    lines += [
        f"{name:<22}{values['median']:>10.4f}{values['p10']:>10.4f}{values['p90']:>10.4f}"
        for name, values in figures["seconds"].items()
    ]
    rates = ("tokens_per_s", "tiles_per_s", "questions_per_s", "useful_tflops")
    lines.append(", ".join(f"{name} {figures[name]:.4g}" for name in rates))
    shown = ("data wait", COMMUNICATION)
    lines.append(", ".join(f"{name} {figures['shares'].get(name, 0.0):.1%} of the time" for name in shown))
    if figures["useful_mfu"] is not None:
        lines.append(f"useful MFU {figures['useful_mfu']:.3f} of {figures['peak_tflops']:g} TFLOP/s (dense)")
    estimated, measured = figures["memory"]["estimated"]["peak"], figures["memory"]["measured_peak"]
    seen = f"{measured / GIB:.2f} GiB reserved at the peak" if measured else "not measured on a CPU"
    lines.append(f"memory: {estimated / GIB:.2f} GiB estimated, {seen}")
    return "\n".join(lines)


def _layers(text: str) -> Any:
    return text if text == "all" else int(text)


def _checkpointing(options: argparse.Namespace) -> CheckpointingSection | None:
    """As asked for, where any layers are named."""
    vision, language = options.checkpoint_vision, options.checkpoint_language
    if vision is None and language is None:
        return None
    return CheckpointingSection(vision=vision or 0, language=language or 0)


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
    parser.add_argument("--general", type=float, default=0.0, help="general samples for each driving question")
    parser.add_argument("--cached", action="store_true", help="distill from cached targets, without a teacher")
    parser.add_argument("--attention", choices=("auto", "flash", "varlen", "flex", "sdpa"), default="auto")
    parser.add_argument("--kernels", choices=("auto", "liger", "compile", "plain"), default="auto")
    parser.add_argument("--adamw", choices=("auto", "fused", "plain", "deepspeed"), default="auto")
    by_hand = "layers run again, or all; default: as few as fit --gpu-memory"
    parser.add_argument("--checkpoint-vision", type=_layers, metavar="N", help=by_hand)
    parser.add_argument("--checkpoint-language", type=_layers, metavar="N", help=by_hand)
    parser.add_argument(
        "--gpu-memory", type=float, metavar="GIB", help="default: the GPU that is there; no limit without one"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, metavar="SHARDS", help="read packs of these as training does")
    source.add_argument("--make-frames", type=int, metavar="N", help="read packs of N frames that are made first")
    parser.add_argument("--workers", type=int, default=2, help="loader processes of each rank")
    parser.add_argument("--peak-tflops", type=float, help="dense peak of the device, where its name is not known")
    parser.add_argument("--ds_config", type=Path, help="default: ds_configs/zero1.json, cpu_zero3.json without a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/step.json"))
    parser.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    return parser


if __name__ == "__main__":
    leave(main())
