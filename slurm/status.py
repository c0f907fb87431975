"""Folders of jobs, sweeps and pipelines in, lines for people out: state, step, last loss, time left."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slurm.cluster import JobState, has_sbatch, job_states
from slurm.progress import saved, training_progress
from slurm.snapshot import SNAPSHOT
from slurm.spec import SPEC_FILE, Work, load_spec
from slurm.state import DONE_STATE, FAILED_STATE, RUNNING_STATE, WAITING_STATE, ElementState, element_states
from slurm.submit import FOLDERS
from slurm.typed import SlurmError

MAX_ELEMENTS = 20
"""Elements of an array shown one by one; more are counted, and only those that failed are named."""


def add_status_options(parser: argparse.ArgumentParser) -> None:
    """Options of `status`."""
    parser.add_argument(
        "folders", type=Path, nargs="*", help=f"of jobs, sweeps or pipelines (default: all in {FOLDERS})"
    )


def status_command(options: argparse.Namespace) -> None:
    """`python -m slurm status`; a folder that cannot be read does not hide the others."""
    folders = options.folders or sorted(path for path in FOLDERS.glob("*") if path.is_dir())
    if not folders:
        raise SlurmError(f"{FOLDERS}: holds no jobs; give the folder of one")
    queue = job_states() if has_sbatch() else None
    problems = []
    for folder in folders:
        try:
            print("\n".join([str(folder), *_folder_lines(folder, queue)]))
        except SlurmError as error:
            problems.append(str(error))
    if problems:
        raise SlurmError("\n".join(problems))


def _folder_lines(folder: Path, queue: dict[str, JobState] | None) -> list[str]:
    if not folder.is_dir():
        raise SlurmError(f"{folder}: no such folder")
    inside = job_folders(folder)
    if not inside:
        raise SlurmError(f"{folder}: has no {SPEC_FILE}; give the folder of a job, sweep or pipeline")
    return [line for one in inside for line in job_lines(one, queue)]


def job_folders(folder: Path) -> list[Path]:
    """The folder itself, or those of a pipeline's steps, in their order."""
    if (folder / SPEC_FILE).is_file():
        return [folder]
    return sorted(spec.parent for spec in folder.glob(f"*/{SPEC_FILE}") if spec.parent.name != SNAPSHOT)


def job_lines(folder: Path, queue: dict[str, JobState] | None) -> list[str]:
    """A line for each element of a job, or a summary of many."""
    spec = load_spec(folder)
    states = element_states(folder, spec, queue)
    pairs = list(zip(spec.works, states, strict=True))
    if len(pairs) == 1:
        return [f"  {spec.name:16} {element_line(*pairs[0])}"]
    counts = {state: sum(one.state == state for one in states) for state in dict.fromkeys(one.state for one in states)}
    head = f"  {spec.name:16} {', '.join(f'{count} {state}' for state, count in counts.items())} of {len(pairs)}"
    shown = pairs if len(pairs) <= MAX_ELEMENTS else [pair for pair in pairs if pair[1].state == FAILED_STATE]
    return [head, *(f"    {work.name:30} {element_line(work, state)}" for work, state in shown)]


def element_line(work: Work, state: ElementState) -> str:
    """State, job, progress and what is to be known of an element."""
    parts = [f"{state.state:9}", f"job {state.job}" if state.job else ""]
    if work.is_training:
        progress = training_progress(work)
        of_steps = f"/{progress.steps}" if progress.steps else ""
        parts.append(f"step {progress.step}{of_steps}" if progress.step or state.state != WAITING_STATE else "")
        parts.append(f"loss {progress.loss:.4f}" if progress.loss is not None else "")
        if state.state == RUNNING_STATE and progress.seconds_left is not None:
            parts.append(f"{duration(progress.seconds_left)} left")
            if progress.age_s is not None and progress.age_s > 300:
                parts.append(f"last step {duration(progress.age_s)} ago")
    if work.progress is not None and state.state == RUNNING_STATE and (files := saved(work)) > 0:
        parts.append(f"{files} files")
    parts.append(f"{state.starts} starts, {state.crashes} crashed" if state.starts > 1 else "")
    parts.append(state.reason if state.state != DONE_STATE else "")
    return "  ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """`45s`, `12m`, `3h05m`, `2d04h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def all_done(states: Sequence[ElementState]) -> bool:
    """Whether nothing is left to do."""
    return all(state.state == DONE_STATE for state in states)
