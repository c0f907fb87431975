"""A run directory in, how far it is out: newest checkpoint, logged step and loss, time left; needs no torch."""

import itertools
import json
import math
import os
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm.spec import Work
from slurm.typed import SlurmError

_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training run is.

    Attributes:
        step: last logged one; 0 before the first.
        steps: of the whole run.
        loss: last logged.
        seconds_left: at the pace of the last logged steps, whatever time a requeue took between two of them; None where
            it cannot be told.
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
        return len(_files(work.progress))
    return -1


def training_progress(work: Work) -> Progress:
    """What the run's metrics say."""
    lines = read_metrics(work.run_dir, tail=True) if work.run_dir is not None else []
    if not lines:
        return Progress(step=0, steps=work.steps, loss=None, seconds_left=None, age_s=None)
    last = lines[-1]
    step, loss = int(last["step"]), _newest(lines, "loss/total")
    pairs = [(a, b) for a, b in itertools.pairwise(lines[-10:]) if b["step"] > a["step"]]
    pace = statistics.median((b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in pairs) if pairs else None
    left = None if pace is None or work.steps is None else max(work.steps - step, 0) * pace
    return Progress(step=step, steps=work.steps, loss=loss, seconds_left=left, age_s=time.time() - last["time"])


def _newest(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The last value that was logged, `nan` for one that was no number; None where none was."""
    found = [line[name] for line in lines if name in line]
    return (math.nan if found[-1] is None else found[-1]) if found else None


def read_metrics(run_dir: Path, *, tail: bool = False) -> list[dict[str, Any]]:
    """The entries of metrics.jsonl; the last 64 KiB of it with `tail`. Lines that are none, such as one that is being
    written, are left out."""
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
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and {"step", "time"} <= set(entry):
            entries.append(entry)
    return entries


def read_summary(run_dir: Path) -> dict[str, Any]:
    """summary.json of a finished run; empty before."""
    return read_json(run_dir / "summary.json")


def read_json(path: Path) -> Any:
    """What a JSON file holds; an empty mapping where it is not there.

    Raises:
        SlurmError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SlurmError(f"{path}: is no JSON ({error}); make it again") from error


def last_sign_of_life(work: Work, since: float) -> float:
    """Time (seconds since the epoch) of the newest logged step or checkpoint of a run, of the newest file of a command,
    or `since` where none is newer."""
    if work.run_dir is not None:
        marks = [work.run_dir / "metrics.jsonl", work.run_dir / "checkpoints"]
    else:
        marks = [] if work.progress is None else _files(work.progress)
    return max([since, *map(_changed, marks)])


def _files(directory: Path) -> list[Path]:
    """All files below a directory in which others write."""
    return [Path(place) / name for place, _, names in os.walk(directory) for name in names]


def _changed(path: Path) -> float:
    """When it was last written; 0 where it is not there, or not any more."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
