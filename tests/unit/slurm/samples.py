"""Specs, records and starts for the tests of this folder."""

from pathlib import Path
from typing import Any

from slurm.attempts import Attempt, TaskRecord
from slurm.spec import JobSpec, Work


def spec(*works: Work, **changes: Any) -> JobSpec:
    settings: dict[str, Any] = {
        "name": "job",
        "directory": Path("/"),
        "works": works or (Work(name="job", command=("true",)),),
        "nodes": 1,
        "tasks_per_node": 2,
        "max_crashes": 2,
        "max_stalls": 2,
        "hang_minutes": 0.0,
    }
    return JobSpec(**{**settings, **changes})


def record(rank: int, status: int, **changes: Any) -> TaskRecord:
    return TaskRecord(**{"rank": rank, "host": f"n{rank}", "status": status, "ended": float(rank), **changes})


def start(number: int, outcome: str, *, saved: tuple[int, int] = (0, 0), **changes: Any) -> Attempt:
    return Attempt(
        **{
            "number": number,
            "job": "7",
            "nodes": "n[1-2]",
            "began": 1.0,
            "ended": 2.0,
            "saved_before": saved[0],
            "saved_after": saved[1],
            "outcome": outcome,
            **changes,
        }
    )


def write_program(path: Path, text: str) -> None:
    """A shell program."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
