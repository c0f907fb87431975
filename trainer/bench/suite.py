"""Everything that a GPU can show, in one go: `python -m trainer.bench.suite --gpu-memory 79 --out runs/bench`.

Checks the kernels, times them, and measures every stage, each in a process of its own. A part that fails or takes too
long is named and the others go on. Writes `suite.json` and `suite.md`, whose tables are ready to be pasted.
"""

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data_shards.atomic import write_json
from trainer.bench.checks import chosen, suite_problems, unwritable
from trainer.bench.settings import PRESETS, ROOT
from trainer.bench.suite_page import ALONE, CHECKS, page
from trainer.dist import free_port, num_gpus
from trainer.loggers import announce, report_failure

_LEAST_SECONDS = 20.0
"""A part is not begun with less time than this."""

_SIZES = {
    "drivlm-2b": ["--tokens", "16384", "--tiles", "48", "--steps", "10"],
    "tiny": ["--tokens", "1000", "--tiles", "39", "--steps", "3", "--warmup", "1"],
}
_TIMED = {"drivlm-2b": ["--tokens", "16384"], "tiny": ["--tokens", "1000", "--repeat", "3"]}


@dataclass(frozen=True, kw_only=True)
class SuitePart:
    """One measurement.

    Attributes:
        arguments: of Python, behind `-m`.
        figures: where it leaves them.
        launcher: what takes the place of `python -m`.
        most: seconds after which it is ended.
    """

    name: str
    arguments: tuple[str, ...]
    figures: Path | None = None
    launcher: tuple[str, ...] = ()
    most: float = math.inf


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """How a part went.

    Attributes:
        status: `done`, `failed`, `too slow`, or `left out` where no time was left.
        seconds: that it took, all in all.
        figures: what it wrote.
        said: the end of its output.
    """

    name: str
    command: str
    status: str
    seconds: float = 0.0
    figures: Any = None
    said: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts; the exit status is 1 where one failed."""
    options = _parser().parse_args(arguments)
    listed = parts(options.preset, options.out, options.gpu_memory, num_gpus(), options.workers)
    names = [part.name for part in listed]
    problems = suite_problems(options, names) + unwritable(options.out, directory=True)
    if problems:
        report_failure("\n".join(problems), on_all_ranks=True)
        return 2
    end = time.monotonic() + 60 * options.minutes
    wanted = chosen(names, options.only)
    results: list[PartResult] = []
    for part in (part for part in listed if part.name in wanted):
        results.append(run_part(part, end - time.monotonic()))
        announce(f"{results[-1].name:<28}{results[-1].status:<10}{results[-1].seconds:>8.1f} s")
        _write(options, results)
    announce(f"{options.out / 'suite.json'}, {options.out / 'suite.md'}")
    return 0 if all(result.status == "done" for result in results) else 1


def parts(preset: str, out: Path, gpu_gib: float | None, gpus: int, workers: int) -> list[SuitePart]:
    """What is measured, the most telling first."""

    def bench(name: str, stage: str, *more: str) -> SuitePart:
        return _bench(preset, out, gpu_gib, name, stage, *more)

    listed = [
        SuitePart(name=CHECKS, arguments=("pytest", "-q", "tests/gpu", "--tb=line", "-k", "not peak"), most=240.0),
        bench("finetune", "finetune"),
        bench("finetune, classic packs", "finetune", "--questions-per-visit", "1"),
        bench("distill, cached targets", "distill", "--cached"),
        bench("distill, online teacher", "distill"),
        bench("align", "align"),
        bench("finetune, from shards", "finetune", "--make-frames", "24", "--workers", str(workers)),
        bench("finetune, plain kernels", "finetune", "--kernels", "plain", "--adamw", "plain"),
        _kernels(preset, out),
        bench("mixture", "finetune", "--general", "0.25"),
        bench("mixture, classic packs", "finetune", "--general", "0.25", "--questions-per-visit", "1"),
        bench("finetune, padded", "finetune", "--questions-per-visit", "1", "--padded"),
    ]
    if gpus == 1:
        return listed
    launched = [
        _on_all(bench(f"finetune, {config}", "finetune", "--ds_config", path), gpus) for config, path in _shared(gpus)
    ]
    return [listed[0], *launched, *listed[1:]] if gpus else [*listed, *launched]


def _shared(gpus: int) -> list[tuple[str, str]]:
    names = ("zero1", "zero2", "zero3") if gpus else ("cpu_zero3",)
    return [(f"{name} on {gpus or 2} ranks", str(ROOT / "ds_configs" / f"{name}.json")) for name in names]


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


def run_part(part: SuitePart, seconds: float) -> PartResult:
    """Run a part for so many seconds at most."""
    command = [*(part.launcher or (sys.executable, "-m")), *part.arguments]
    shown = " ".join([*(("deepspeed", *part.launcher[1:]) if part.launcher else ("python", "-m")), *part.arguments])
    if seconds < _LEAST_SECONDS:
        return PartResult(name=part.name, command=shown, status="left out")
    if part.figures is not None:
        part.figures.unlink(missing_ok=True)
    begin = time.monotonic()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    status = "failed"
    try:
        output, _ = process.communicate(timeout=min(seconds, part.most))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = "too slow"
    finally:
        if process.poll() is None:  # a Ctrl-C does not reach what has a session of its own
            os.killpg(process.pid, signal.SIGKILL)
    found = part.figures is None or part.figures.is_file()
    return PartResult(
        name=part.name,
        command=shown,
        status="done" if process.returncode == 0 and found else status,
        seconds=time.monotonic() - begin,
        figures=json.loads(part.figures.read_text()) if part.figures is not None and part.figures.is_file() else None,
        said=output.strip().splitlines()[-12:],
    )


def _write(options: argparse.Namespace, results: Sequence[PartResult]) -> None:
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "preset": options.preset,
        "device": torch.cuda.get_device_name() if num_gpus() else f"{os.cpu_count()} CPU cores, no GPU",
        "devices": num_gpus(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
    rows = [vars(result) for result in results]
    write_json(options.out / "suite.json", {"about": about, "parts": rows})
    (options.out / "suite.md").write_text(page(about, rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.bench.suite", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="drivlm-2b")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="checkpoint the fewest layers that fit into it")
    parser.add_argument("--minutes", type=float, default=10.0, help="no part begins or goes on after these")
    parser.add_argument("--workers", type=int, default=8, help="loader processes where shards are read")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="parts whose name holds one of these")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
