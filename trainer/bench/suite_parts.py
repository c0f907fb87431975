"""A preset and a number of GPUs in; the measurements that the suite makes of them, the most telling first, out."""

import sys
from dataclasses import dataclass
from pathlib import Path

from trainer.bench.settings import ROOT
from trainer.bench.suite_page import ALONE, CHECKS, STOCK
from trainer.dist import free_port

_ALONE = ("zero2", "zero3", "zero3_offload")
"""DeepSpeed configurations measured on one GPU beside the default, `zero1`."""

_TOGETHER = ("zero1", "zero2", "zero3")
"""Those measured on all GPUs together."""

_SIZES = {
    "drivlm-2b": ["--tokens", "16384", "--tiles", "48", "--steps", "16"],
    "tiny": ["--tokens", "1000", "--tiles", "39", "--steps", "3", "--warmup", "1"],
}
_LONGER = {"drivlm-2b": 18432, "tiny": 1100}
"""Tokens that hold three whole visits of 32 questions."""

_TIMED = {"drivlm-2b": ["--tokens", "16384"], "tiny": ["--tokens", "1000", "--repeat", "3"]}


@dataclass(frozen=True, kw_only=True)
class SuitePart:
    """One measurement.

    Attributes:
        arguments: of Python, behind `-m`.
        figures: where it leaves them.
        launcher: what takes the place of `python -m`.
    """

    name: str
    arguments: tuple[str, ...]
    figures: Path | None = None
    launcher: tuple[str, ...] = ()


def parts(preset: str, out: Path, gpu_gib: float | None, gpus: int, workers: int) -> list[SuitePart]:
    """What is measured, the most telling first."""

    def bench(name: str, stage: str, *more: str) -> SuitePart:
        return _bench(preset, out, gpu_gib, name, stage, *more)

    classic, mixed = ("--questions-per-visit", "1"), ("--general", "0.25")
    listed = [
        SuitePart(name=CHECKS, arguments=("pytest", "-q", "tests/gpu", "--tb=line", "-k", "not peak")),
        bench("finetune", "finetune"),
        bench("finetune, classic packs", "finetune", *classic),
        bench(f"finetune, {STOCK}", "finetune", "--stock"),
        bench("distill, cached targets", "distill", "--cached"),
        bench("distill, online teacher", "distill"),
        bench("align", "align"),
        bench("finetune, from shards", "finetune", "--make-frames", "24", "--workers", str(workers)),
        bench("mixture", "finetune", *mixed),
        bench("mixture, classic packs", "finetune", *mixed, *classic),
        bench(f"mixture, {STOCK}", "finetune", *mixed, "--stock"),
        bench("finetune, four packs a step", "finetune", "--micro-batches", "4", "--steps", "4"),
        bench("finetune, longer packs", "finetune", "--tokens", str(_LONGER[preset])),
        bench("finetune, plain kernels", "finetune", "--kernels", "plain", "--adamw", "plain"),
        _kernels(preset, out),
        bench("finetune, padded", "finetune", *classic, "--padded"),
    ]
    if gpus == 1:
        return [*listed, *(bench(f"finetune, {name}", "finetune", "--ds_config", _config(name)) for name in _ALONE)]
    launched = [
        _on_all(bench(f"finetune, {name} on {gpus or 2} ranks", "finetune", "--ds_config", _config(name)), gpus)
        for name in (_TOGETHER if gpus else ("cpu_zero3",))
    ]
    return [listed[0], *launched, *listed[1:]] if gpus else [*listed, *launched]


def _config(name: str) -> str:
    return str(ROOT / "ds_configs" / f"{name}.json")


def _on_all(part: SuitePart, gpus: int) -> SuitePart:
    """The same under the launcher, on all GPUs; on two ranks without one."""
    launcher = (
        str(Path(sys.executable).with_name("deepspeed")),
        *("--num_gpus", str(gpus or 2), "--master_port", str(free_port()), "--module"),
    )
    return SuitePart(name=part.name, arguments=part.arguments, figures=part.figures, launcher=launcher)


def _bench(preset: str, out: Path, gpu_gib: float | None, name: str, stage: str, *more: str) -> SuitePart:
    path = out / f"{name.replace(', ', '-').replace(' ', '_')}.json"
    card = () if gpu_gib is None else ("--gpu-memory", str(gpu_gib))
    own = ("trainer.bench", "--preset", preset, "--stage", stage, *_SIZES[preset], *card, *more, "--out", str(path))
    return SuitePart(name=name, arguments=own, figures=path)


def _kernels(preset: str, out: Path) -> SuitePart:
    path = out / "kernels.json"
    own = ("trainer.bench.kernels", "--preset", preset, *_TIMED[preset], "--out", str(path))
    return SuitePart(name=ALONE, arguments=own, figures=path)
