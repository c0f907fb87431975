"""A run directory in, the right to write into it out: `<run_dir>.lock` names the job that holds it.

The file lies beside the directory, since a run may move its directory aside.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slurm.cluster import has_sbatch, job_states
from slurm.typed import SlurmError, from_json, to_json, write_whole


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
    """The lock of a run directory, the same one by whatever path it is reached."""
    real = run_dir.resolve()
    return real.with_name(real.name + ".lock")


def owner_here(folder: Path, job: str | None = None) -> Owner:
    """This process, or the job it has submitted."""
    return Owner(job=job, host=socket.gethostname(), pid=os.getpid(), folder=str(folder))


def acquire(run_dir: Path, owner: Owner, what: str = "run_dir") -> None:
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
                _remove_dead(path, f"{what} {run_dir}", owner)
            else:
                return
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Keep other submissions out of a folder while this one lasts.

    Raises:
        SlurmError: another one is in it.
    """
    acquire(folder, owner_here(folder), what="--folder")
    try:
        yield
    finally:
        release(folder, folder)


def hand_over(run_dir: Path, owner: Owner) -> None:
    """Write another owner into a lock that is held: the job that was submitted under it."""
    write_whole(lock_path(run_dir), to_json(owner))


def release(run_dir: Path, folder: Path) -> None:
    """Give the lock back, if a job of this folder holds it."""
    path = lock_path(run_dir)
    if path.is_file() and _read(path).folder == str(folder):
        path.unlink(missing_ok=True)


def holder(run_dir: Path) -> Owner | None:
    """Who holds it, dead or alive."""
    path = lock_path(run_dir)
    return _read(path) if path.is_file() else None


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


def _read(path: Path) -> Owner:
    try:
        return from_json(Owner, path)
    except SlurmError as error:
        raise SlurmError(f"{error}; if no job writes into the directory beside it, remove it") from error


def _remove_dead(path: Path, named: str, claimant: Owner) -> None:
    try:
        owner = _read(path)
    except SlurmError:
        if not path.exists():
            return
        raise
    same = claimant.job is not None and owner.folder == claimant.folder
    if not same and is_alive(owner):
        what = f"job {owner.job}" if owner.job else f"process {owner.pid}"
        raise SlurmError(
            f"{named}: held by {what}, submitted on {owner.host} from {owner.folder}; wait for it, cancel "
            f"it, or give another {named.split()[0]} (if it is surely gone: remove {path})"
        )
    grave = path.with_name(f".{path.name}.dead.{claimant.host}.{os.getpid()}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return
    if _read(grave) != owner:
        os.link(grave, path)
    grave.unlink()
