"""Jobs on the local SLURM: submitted as a user would, waited for, disturbed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from safetensors.torch import load_file

from slurm.attempts import ENDED_BY_SLURM, Attempt, Attempts, load_attempts
from slurm.cluster import job_states
from tests.helpers.dist import CPU_ZERO3, losses
from tests.helpers.paths import ROOT

TIMEOUT_S = 900
TWO_NODES = ("--nodes", "2", "--cpus-per-task", "1")


def slurm(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess:
    """`python -m slurm ...`, which has to end with the given status."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    command = [sys.executable, "-m", "slurm", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def submit(recipe: Path, folder: Path, *arguments: str) -> str:
    """Submit a two-node job without the trainer's check, and return SLURM's id."""
    files = ("--recipe", str(recipe), "--ds_config", str(CPU_ZERO3), "--folder", str(folder))
    said = slurm("submit", *files, *TWO_NODES, "--unchecked", *arguments).stdout
    return said.split("submitted job ")[1].split(":")[0]


def wait_until(holds: Callable[[], bool], what: str, folder: Path | None = None) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, f"no {what} in time\n{everything_said(folder)}"
        time.sleep(0.05)


def wait_for_end(folder: Path, elements: int = 1) -> list[Attempts]:
    """Wait until every element has ended for good; one that SLURM itself ended may be on its way back."""

    def ended() -> bool:
        return all(one.starts and _is_last(one.starts[-1]) for one in attempts())

    def attempts() -> list[Attempts]:
        return [load_attempts(folder, i) for i in range(elements)]

    wait_until(ended, "end", folder)
    return attempts()


def _is_last(start: Attempt) -> bool:
    if start.ended is None or start.requeued:
        return False
    return start.outcome != ENDED_BY_SLURM or start.job not in job_states()


def everything_said(folder: Path | None) -> str:
    """The logs of a job, for a failure's message."""
    if folder is None:
        return ""
    logs = [path for path in sorted(folder.rglob("*")) if path.is_file() and "log" in path.name]
    state = subprocess.run(["squeue"], capture_output=True, text=True, check=False).stdout
    return state + "\n".join(f"== {path}\n{path.read_text()[-3000:]}" for path in logs if "snapshot" not in path.parts)


def last_step(run_dir: Path) -> int:
    return max(losses(run_dir), default=0) if (run_dir / "metrics.jsonl").is_file() else 0


def weights(run_dir: Path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in load_file(run_dir / "model" / "model.safetensors").items()}


def ranks_of(folder: Path, rank: int) -> list[psutil.Process]:
    """The process of one rank: the trainer itself, not the task that watches it."""
    return [
        one for one in _processes(f"{folder}/snapshot/trainer/run.py") if _environment(one).get("RANK") == str(rank)
    ]


def tasks_of(folder: Path, rank: int) -> list[psutil.Process]:
    """The srun task that watches a rank."""
    found = (one for one in _processes("submitit.core._submit") if str(folder) in one.cmdline())
    return [one for one in found if _environment(one).get("SLURM_PROCID") == str(rank)]


def step_daemons(job: str) -> list[psutil.Process]:
    """The slurmstepd processes of a job's srun, one a node."""
    return [one for one in _processes("slurmstepd") if f"[{job}.0]" in " ".join(one.cmdline())]


def _processes(word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(word in part for part in process.cmdline()) and "srun" not in process.name():
                found.append(process)
        except psutil.Error:
            continue
    return found


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def scontrol(*arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], check=True, capture_output=True)


def scancel(arguments: Sequence[str]) -> None:
    subprocess.run(["scancel", *arguments], check=True, capture_output=True)
