"""Command lines of the benchmarks in; all that is wrong with each, a line for every problem, out.

Pure but for `unwritable`. A line names the flag, what was got, what is expected, and what to do.
"""

import math
from argparse import Namespace
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile

from trainer.bench.packs import least_tokens
from trainer.bench.settings import tokens_per_tile

LEAST_KERNEL_TOKENS = 128
"""A frame's prefix and a question, with as few image tokens as the kernels are timed with."""


def bench_problems(options: Namespace, *, gpus: int) -> list[str]:
    """Of `python -m trainer.bench` on a machine with so many GPUs."""
    problems = [*_bench_numbers(options), *_layers(options)]
    problems += _of_other_stages(options)
    problems += [*_not_with_shards(options), *_not_stock(options)]
    on_cpu = gpus == 0 and (options.ds_config is None or options.ds_config.name == "cpu_zero3.json")
    if on_cpu and options.adamw in ("fused", "deepspeed"):
        problems.append(
            f"--adamw: got {options.adamw}, expected auto or plain on a CPU: ds_configs/cpu_zero3.json takes torch's "
            "AdamW; leave it out, or give a --ds_config whose optimizer.params have no torch_adam"
        )
    return problems


def kernels_problems(options: Namespace) -> list[str]:
    """Of `python -m trainer.bench.kernels`."""
    return [
        *_at_least("--tokens", options.tokens, LEAST_KERNEL_TOKENS),
        *_at_least("--repeat", options.repeat, 1),
    ]


def suite_problems(options: Namespace, names: Sequence[str]) -> list[str]:
    """Of `python -m trainer.bench.suite`, whose parts have these names."""
    problems = [
        *_positive("--minutes", options.minutes),
        *_positive("--gpu-memory", options.gpu_memory),
        *_at_least("--workers", options.workers, 0),
    ]
    if options.only and not chosen(names, options.only):
        problems.append(f"--only: got {' '.join(options.only)}, expected a word of one of: {'; '.join(names)}")
    return problems


def scaling_problems(options: Namespace, *, node: int) -> list[str]:
    """Of `python -m benchmarks.scaling` with so many GPUs in a node."""
    problems = [
        *_at_least("--tokens", options.tokens, 1),
        *_at_least("--tiles", options.tiles, 1),
        *_positive("--gpu-memory", options.gpu_memory),
        *_positive("--peak-tflops", options.peak_tflops),
        *_positive("--inside", options.inside),
        *_positive("--between", options.between),
    ]
    if options.mfu is not None and not 0 < options.mfu <= 1:
        problems.append(f"--mfu: got {options.mfu:g}, expected a share above 0, at most 1")
    for count in options.run:
        problems += _at_least("--run", count, 1)
        if count > node and options.hostfile is None:
            problems.append(f"--run: got {count}, expected at most {node} on one node; give the nodes with --hostfile")
    if options.hostfile is not None and not options.hostfile.is_file():
        problems.append(f"--hostfile: got {options.hostfile}, expected a file with a line `host slots=8` for each node")
    return problems or _too_short(options)


def chosen(names: Sequence[str], words: Collection[str] | None) -> list[str]:
    """The names that hold one of the words; all where none are given."""
    return [name for name in names if not words or any(word in name for word in words)]


def unwritable(path: Path, *, directory: bool = False) -> list[str]:
    """What stands against writing the file of `--out`, or into that directory, which is made if need be."""
    try:
        place = path if directory else path.parent
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        return [f"--out: got {path}, which cannot be written ({error.strerror}); expected a place to write to"]
    if not directory and path.is_dir():
        return [f"--out: got {path}, a directory, expected a file; give {path / 'figures.json'}"]
    return []


def _bench_numbers(options: Namespace) -> list[str]:
    problems = [
        *_at_least("--tokens", options.tokens, 1),
        *_at_least("--tiles", options.tiles, 1),
        *_at_least("--steps", options.steps, 1),
        *_at_least("--warmup", options.warmup, 0),
        *_at_least("--micro-batches", options.micro_batches, 1),
        *_at_least("--questions-per-visit", options.questions_per_visit, 1),
        *_at_least("--workers", options.workers, 0),
        *_at_least("--make-frames", options.make_frames, 1),
        *_positive("--gpu-memory", options.gpu_memory),
        *_positive("--peak-tflops", options.peak_tflops),
    ]
    if not 0 <= options.general < math.inf:
        problems.append(f"--general: got {options.general:g}, expected 0 or more samples for each driving question")
    read = options.data or options.make_frames
    return problems or ([] if options.stage == "distill" or read else _too_short(options))


def _too_short(options: Namespace) -> list[str]:
    least = least_tokens(options.tiles, tokens_per_tile(options.preset))
    if options.stage == "distill" or options.tokens >= least:
        return []
    return [
        f"--tokens: got {options.tokens}, expected at least {least}, for a frame with its shortest question; raise it, "
        "or lower --tiles"
    ]


def _layers(options: Namespace) -> Iterator[str]:
    for flag, value in (
        ("--checkpoint-vision", options.checkpoint_vision),
        ("--checkpoint-language", options.checkpoint_language),
    ):
        if value is None:
            continue
        if value != "all" and value < 0:
            yield f"{flag}: got {value}, expected 0 or more layers, or all"
        if options.gpu_memory is not None:
            yield f"{flag}: got {value} beside --gpu-memory, which chooses the layers; leave one of them out"


def _of_other_stages(options: Namespace) -> Iterator[str]:
    """What a stage would ignore."""
    if options.cached and (options.stage != "distill" or options.data or options.make_frames):
        yield "--cached: is for --stage distill, with random packs in memory; leave it out"
    if options.stage != "distill":
        return
    given = {
        "--padded": options.padded,
        "--stock": options.stock,
        "--general": options.general,
        "--questions-per-visit": options.questions_per_visit is not None,
    }
    for flag, is_given in given.items():
        if is_given:
            yield f"{flag}: got --stage distill, which has no questions, expected align or finetune; leave it out"


def _not_with_shards(options: Namespace) -> Iterator[str]:
    """What only random packs can have."""
    source = "--data" if options.data else "--make-frames"
    if not options.data and not options.make_frames:
        return
    for flag, is_given in (("--padded", options.padded), ("--general", options.general)):
        if is_given:
            yield f"{flag}: got {source}, expected random packs in memory; leave one of them out"


def _not_stock(options: Namespace) -> Iterator[str]:
    """What transformers' own model does in its own way."""
    if not options.stock:
        return
    if options.padded:
        yield "--padded: got --stock as well, whose batches are padded in any case; leave one of them out"
    if options.questions_per_visit not in (None, 1):
        yield f"--questions-per-visit: got {options.questions_per_visit}, expected 1 with --stock; leave it out"
    if options.attention not in ("auto", "flash", "sdpa"):
        yield f"--attention: got {options.attention}, expected auto, flash or sdpa with --stock"
    if options.kernels not in ("auto", "plain"):
        yield f"--kernels: got {options.kernels}, expected auto or plain with --stock, which has its own layers"
    layers = {options.checkpoint_vision or 0, options.checkpoint_language or 0}
    if layers not in ({0}, {"all"}):
        yield "--checkpoint-vision, --checkpoint-language: with --stock expected 0 or all, the same for both"


def _at_least(flag: str, value: int | None, least: int) -> list[str]:
    fits = value is None or value >= least
    return [] if fits else [f"{flag}: got {value}, expected a whole number of at least {least}"]


def _positive(flag: str, value: float | None) -> list[str]:
    fits = value is None or 0 < value < math.inf
    return [] if fits else [f"{flag}: got {value:g}, expected a number above 0"]
