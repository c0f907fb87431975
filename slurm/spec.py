"""What a job folder holds: `spec.json` says what runs, `work-000/` keeps what became of each of its parts.

A job of one part is a plain SLURM job; more parts are the elements of an array. The folder is private (0700).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slurm.typed import SlurmError, from_json, to_json, write_whole

SPEC_FILE = "spec.json"
IDS_FILE = "slurm_ids.json"


@dataclass(frozen=True, kw_only=True)
class Work:
    """One element of a job.

    Attributes:
        name: for people, `lr=0.001`.
        command: what each rank runs; the first word `python` stands for the job's Python.
        run_dir: of a training run; None for other commands.
        steps: of the training run.
        progress: a directory in which a growing number of files is progress; None for a training run.
        results: JSON file that it leaves, with numbers for reports; None for a training run.
        values: recipe values that were swept.
    """

    name: str
    command: tuple[str, ...]
    run_dir: Path | None = None
    steps: int | None = None
    progress: Path | None = None
    results: Path | None = None
    values: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_training(self) -> bool:
        """Whether it saves on USR2, exits with 75 then, and resumes from its checkpoints."""
        return self.run_dir is not None


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """Everything the running job needs to know.

    Attributes:
        name: of the job.
        directory: where its commands run.
        works: its elements.
        nodes, tasks_per_node: ranks.
        on_cpu: they compute on the CPU, on nodes with GPUs as well.
        max_crashes, max_stalls, hang_minutes, exclude_failed_nodes: see `slurm.resources.Resources`.
    """

    name: str
    directory: Path
    works: tuple[Work, ...]
    nodes: int
    tasks_per_node: int
    max_crashes: int
    max_stalls: int
    hang_minutes: float
    exclude_failed_nodes: bool = False
    on_cpu: bool = False


@dataclass(frozen=True, kw_only=True)
class SlurmIds:
    """What SLURM calls the job: `17`, or `17_0`, `17_1`, ... for the elements of an array."""

    ids: tuple[str, ...]


def save_spec(folder: Path, spec: JobSpec) -> None:
    """Write the spec, once."""
    write_whole(folder / SPEC_FILE, to_json(spec))


def load_spec(folder: Path) -> JobSpec:
    """The spec of a job folder.

    Raises:
        SlurmError: this is no job folder.
    """
    if not (folder / SPEC_FILE).is_file():
        raise SlurmError(f"{folder}: has no {SPEC_FILE}; give the folder of a job, sweep or pipeline")
    return from_json(JobSpec, folder / SPEC_FILE)


def save_ids(folder: Path, ids: tuple[str, ...]) -> None:
    """Write SLURM's ids, after submission."""
    write_whole(folder / IDS_FILE, to_json(SlurmIds(ids=ids)))


def load_ids(folder: Path) -> tuple[str, ...]:
    """SLURM's ids of the elements; empty before submission."""
    return from_json(SlurmIds, folder / IDS_FILE).ids if (folder / IDS_FILE).is_file() else ()


def work_folder(folder: Path, index: int) -> Path:
    """Where the attempts of an element are kept."""
    return folder / f"work-{index:03d}"


def check_name(name: str, what: str) -> None:
    """Refuse a name that is not fit for a directory and for SLURM's lists.

    Raises:
        SlurmError: names `what` was named so.
    """
    if name != name.strip() or name[:1] in ("", ".", "-") or re.search(r"[/%:,\x00-\x1f]", name):
        raise SlurmError(f"{what}: got {name!r}, expected a name fit for a directory, without any of / % : ,")


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        SlurmError: a job, or other files; or the folder cannot hold code that Python is to find.
    """
    if (folder / SPEC_FILE).exists():
        raise SlurmError(f"--folder {folder}: holds a job already; give another, or remove it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SlurmError(f"--folder {folder}: is not empty; give one that is not there yet")
    if ":" in str(folder.absolute()):
        raise SlurmError(f"--folder {folder}: has a colon, at which Python's search path would be cut; give another")
