"""The command line of `python -m trainer.bench` in, the settings of a measurement out."""

import argparse
from pathlib import Path
from typing import Any

from trainer.bench.settings import PRESETS, ROOT, BenchSettings
from trainer.checkpointing_section import CheckpointingSection


def bench_parser(description: str | None) -> argparse.ArgumentParser:
    """All flags; `trainer.bench.checks` looks at what they hold."""
    made = argparse.ArgumentParser(prog="python -m trainer.bench", description=description)
    made.add_argument("--preset", choices=sorted(PRESETS), default="drivlm-2b")
    made.add_argument("--stage", choices=("distill", "align", "finetune"), required=True)
    made.add_argument("--tokens", type=int, default=16384, help="of a pack at most")
    made.add_argument("--tiles", type=int, default=48, help="of a pack at most")
    made.add_argument("--steps", type=int, default=20)
    made.add_argument("--warmup", type=int, default=3, help="steps before those measured")
    made.add_argument("--micro-batches", type=int, default=1, metavar="N", help="packs of each rank in a step")
    made.add_argument("--questions-per-visit", type=int, help="1: every question brings its own images; default: 32")
    made.add_argument("--padded", action="store_true", help="fill every conversation up to the longest")
    made.add_argument(
        "--stock", action="store_true", help="transformers' own model, padded batches, 1 question a visit"
    )
    made.add_argument("--general", type=float, default=0.0, help="general samples for each driving question")
    made.add_argument("--cached", action="store_true", help="distill from cached targets, without a teacher")
    made.add_argument("--attention", choices=("auto", "flash", "varlen", "flex", "sdpa"), default="auto")
    made.add_argument("--kernels", choices=("auto", "liger", "compile", "plain"), default="auto")
    made.add_argument("--adamw", choices=("auto", "fused", "plain", "deepspeed"), default="auto")
    by_hand = "layers run again, or all; default: as few as fit --gpu-memory"
    made.add_argument("--checkpoint-vision", type=_layers, metavar="N", help=by_hand)
    made.add_argument("--checkpoint-language", type=_layers, metavar="N", help=by_hand)
    made.add_argument(
        "--gpu-memory", type=float, metavar="GIB", help="default: the GPU that is there; no limit without one"
    )
    source = made.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, metavar="SHARDS", help="read packs of these as training does")
    source.add_argument("--make-frames", type=int, metavar="N", help="read packs of N frames that are made first")
    made.add_argument("--workers", type=int, default=2, help="loader processes of each rank")
    made.add_argument("--peak-tflops", type=float, help="dense peak of the device, where its name is not known")
    made.add_argument("--ds_config", type=Path, help="default: ds_configs/zero1.json, cpu_zero3.json without a GPU")
    made.add_argument("--out", type=Path, default=Path("runs/bench/step.json"))
    made.add_argument("--local_rank", type=int, help="set by the deepspeed launcher")
    return made


def settings_of(options: argparse.Namespace, *, gpus: int) -> BenchSettings:
    """What these options measure on a machine with so many GPUs."""
    default = "zero1.json" if gpus else "cpu_zero3.json"
    a_visit = 1 if options.stock else BenchSettings.questions_per_visit
    return BenchSettings(
        preset=options.preset,
        stage=options.stage,
        ds_config=options.ds_config or ROOT / "ds_configs" / default,
        tokens=options.tokens,
        tiles=options.tiles,
        steps=options.steps,
        warmup=options.warmup,
        micro_batches=options.micro_batches,
        questions_per_visit=options.questions_per_visit or a_visit,
        padded=options.padded,
        stock=options.stock,
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


def _layers(text: str) -> Any:
    if text != "all" and not text.lstrip("-").isdigit():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of layers, or all")
    return text if text == "all" else int(text)


def _checkpointing(options: argparse.Namespace) -> CheckpointingSection | None:
    """As asked for, where any layers are named."""
    vision, language = options.checkpoint_vision, options.checkpoint_language
    if vision is None and language is None:
        return None
    return CheckpointingSection(vision=vision or 0, language=language or 0)
