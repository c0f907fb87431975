"""Everything that a GPU can show, in one go: `python -m trainer.bench.suite --minutes 30 --out runs/bench`.

Checks the kernels, times them, and measures every stage, each in a process of its own, the most telling first. A part
that fails or takes too long is named and the others go on. Writes `suite.json` and `suite.md`, whose tables are ready
to be pasted.
"""

import argparse
import json
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
import transformers

from data_shards.atomic import write_json
from trainer.bench.checks import chosen, suite_problems, unwritable
from trainer.bench.settings import PRESETS, ROOT
from trainer.bench.suite_page import CHECKS, page
from trainer.bench.suite_parts import SuitePart, parts
from trainer.dist import num_gpus
from trainer.loggers import announce, report_failure

_LEAST_SECONDS = 20.0
"""A part is not begun with less time than this."""

_MOST_SECONDS, _MOST_SHARE = 180.0, 1 / 6
"""A part is ended after so many seconds, or after this share of all the time where that is more."""


@dataclass(frozen=True, kw_only=True)
class PartResult:
    """How a part went.

    Attributes:
        status: `done`, `failed`, `too slow`, `skipped` where all its tests skip themselves, or `left out` where no time
            was left.
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
        most = max(_MOST_SECONDS, 60 * options.minutes * _MOST_SHARE)
        results.append(run_part(part, min(end - time.monotonic(), most)))
        announce(f"{results[-1].name:<34}{results[-1].status:<10}{results[-1].seconds:>8.1f} s")
        _write(options, results)
    announce(f"{options.out / 'suite.json'}, {options.out / 'suite.md'}")
    return 0 if all(result.status in ("done", "skipped") for result in results) else 1


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
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = "too slow"
    finally:
        if process.poll() is None:  # a Ctrl-C does not reach what has a session of its own
            os.killpg(process.pid, signal.SIGKILL)
    said = output.strip().splitlines()[-12:]
    if process.returncode == 0 and (part.figures is None or part.figures.is_file()):
        status = "skipped" if part.name == CHECKS and _all_skipped(said) else "done"
    return PartResult(
        name=part.name,
        command=shown,
        status=status,
        seconds=time.monotonic() - begin,
        figures=json.loads(part.figures.read_text()) if part.figures is not None and part.figures.is_file() else None,
        said=said,
    )


def _all_skipped(said: Sequence[str]) -> bool:
    """Whether pytest's last line counts skipped tests and none that passed."""
    return bool(said) and "skipped" in said[-1] and "passed" not in said[-1]


def _write(options: argparse.Namespace, results: Sequence[PartResult]) -> None:
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "preset": options.preset,
        "device": torch.cuda.get_device_name() if num_gpus() else f"{os.cpu_count()} CPU cores, no GPU",
        "devices": num_gpus(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
    rows = [vars(result) for result in results]
    write_json(options.out / "suite.json", {"about": about, "parts": rows})
    (options.out / "suite.md").write_text(page(about, rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.bench.suite", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="drivlm-2b")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="default: the GPU that is there")
    parser.add_argument("--minutes", type=float, default=30.0, help="no part begins or goes on after these")
    parser.add_argument("--workers", type=int, default=8, help="loader processes where shards are read")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="parts whose name holds one of these")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
