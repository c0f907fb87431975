"""A run directory in, how far it is out: newest checkpoint, logged step and loss, time left; needs no torch."""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.spec import Work

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training run is.

    Attributes:
        step: last logged one; 0 before the first.
        steps: of the whole run.
        loss: last logged.
        seconds_left: at the pace of the last logged steps; None where it cannot be told.
        age_s: since the last logged step; None before the first.
    """

    step: int
    steps: int | None
    loss: float | None
    seconds_left: float | None
    age_s: float | None


def saved(work: Work) -> int:
    """What would outlast a kill now: step of the newest checkpoint (the last step of a finished run), or the number of
    files in a command's directory; -1 where there is nothing."""
    if work.run_dir is not None:
        steps = [
            int(match[1])
            for manifest in work.run_dir.glob("checkpoints/step-*/manifest.txt")
            if (match := re.fullmatch(r"step-(\d+)", manifest.parent.name))
        ]
        summary = read_summary(work.run_dir)
        return max([*steps, int(summary.get("steps", -1))])
    if work.progress is not None and work.progress.is_dir():
        return sum(1 for path in work.progress.rglob("*") if path.is_file())
    return -1


def training_progress(work: Work) -> Progress:
    """What the run's metrics say."""
    lines = read_metrics(work.run_dir, tail=True) if work.run_dir is not None else []
    if not lines:
        return Progress(step=0, steps=work.steps, loss=None, seconds_left=None, age_s=None)
    last, first = lines[-1], lines[max(0, len(lines) - 10)]
    step, loss = int(last["step"]), last.get("loss/total")
    pace = (last["time"] - first["time"]) / (step - first["step"]) if step > first["step"] else None
    left = None if pace is None or work.steps is None else max(work.steps - step, 0) * pace
    return Progress(step=step, steps=work.steps, loss=loss, seconds_left=left, age_s=time.time() - last["time"])


def read_metrics(run_dir: Path, *, tail: bool = False) -> list[dict[str, Any]]:
    """The entries of metrics.jsonl; the last 64 KiB of it with `tail`. A line that is being written is left out."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        return []
    with path.open("rb") as file:
        if tail:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            if size > _TAIL_BYTES:
                file.readline()
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def read_summary(run_dir: Path) -> dict[str, Any]:
    """summary.json of a finished run; empty before."""
    path = run_dir / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def last_sign_of_life(work: Work, since: float) -> float:
    """Time (seconds since the epoch) of the newest logged step or checkpoint, or `since` where none is newer."""
    if work.run_dir is None:
        return since
    marks = [work.run_dir / "metrics.jsonl", work.run_dir / "checkpoints"]
    return max([since, *(path.stat().st_mtime for path in marks if path.exists())])
