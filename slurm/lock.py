"""A run directory in, the right to write into it out: `<run_dir>.lock` names the job that holds it.

The file lies beside the directory, since a run may move its directory aside.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from slurm.cluster import has_sbatch, job_states
from slurm.typed import SlurmError, from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a run directory.

    Attributes:
        job: SLURM's id; None while it is being submitted.
        host, pid: of the process that submitted it.
        folder: of the job.
    """

    job: str | None
    host: str
    pid: int
    folder: str


def lock_path(run_dir: Path) -> Path:
    """The lock of a run directory."""
    return run_dir.with_name(run_dir.name + ".lock")


def owner_here(folder: Path, job: str | None = None) -> Owner:
    """This process, or the job it has submitted."""
    return Owner(job=job, host=socket.gethostname(), pid=os.getpid(), folder=str(folder))


def acquire(run_dir: Path, owner: Owner) -> None:
    """Take the lock; one that a dead job or process left is taken over, and so is a starting job's own.

    Raises:
        SlurmError: another live job holds it.
    """
    path = lock_path(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{owner.host}.{os.getpid()}")
    temporary.write_text(to_json(owner), encoding="utf-8")
    try:
        while True:
            try:
                os.link(temporary, path)
            except FileExistsError:
                _remove_dead(path, run_dir, owner)
            else:
                return
    finally:
        temporary.unlink(missing_ok=True)


def hand_over(run_dir: Path, owner: Owner) -> None:
    """Write another owner into a lock that is held: the job that was submitted under it."""
    path = lock_path(run_dir)
    temporary = path.with_name(f".{path.name}.{owner.host}.{os.getpid()}")
    temporary.write_text(to_json(owner), encoding="utf-8")
    temporary.replace(path)


def release(run_dir: Path, folder: Path) -> None:
    """Give the lock back, if a job of this folder holds it."""
    path = lock_path(run_dir)
    if path.is_file() and from_json(Owner, path).folder == str(folder):
        path.unlink(missing_ok=True)


def holder(run_dir: Path) -> Owner | None:
    """Who holds it, dead or alive."""
    path = lock_path(run_dir)
    return from_json(Owner, path) if path.is_file() else None


def is_alive(owner: Owner) -> bool:
    """Whether the owner can still write; what cannot be found out counts as alive."""
    if owner.job is not None:
        return owner.job in job_states() if has_sbatch() else True
    if owner.host != socket.gethostname():
        return True
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove_dead(path: Path, run_dir: Path, claimant: Owner) -> None:
    try:
        owner = from_json(Owner, path)
    except SlurmError:
        if not path.exists():
            return
        raise
    same = claimant.job is not None and owner.folder == claimant.folder
    if not same and is_alive(owner):
        what = f"job {owner.job}" if owner.job else f"process {owner.pid}"
        raise SlurmError(
            f"run_dir {run_dir}: held by {what}, submitted on {owner.host} from {owner.folder}; wait for it, cancel "
            f"it, or give another run_dir (if it is surely gone: remove {path})"
        )
    grave = path.with_name(f".{path.name}.dead.{claimant.host}.{os.getpid()}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return
    if from_json(Owner, grave) != owner:
        os.link(grave, path)
    grave.unlink()
