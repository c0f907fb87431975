"""A working tree or a named commit in, a copy of it in the job folder out: later edits cannot change a queued job."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from slurm.typed import SlurmError, write_whole

SNAPSHOT = "snapshot"
RECORD = "snapshot.json"
ROOT = Path(__file__).resolve().parents[1]


def take_snapshot(folder: Path, commit: str | None, root: Path = ROOT) -> Path:
    """Copy the code to `folder/snapshot`, whole or not at all, and say in `folder/snapshot.json` what it is.

    Args:
        folder: of the job.
        commit: any name git knows; None for the working tree: tracked files and untracked ones that are not ignored.
        root: of the repository.

    Raises:
        SlurmError: no git repository, or no such commit.
    """
    final, partial = folder / SNAPSHOT, folder / (SNAPSHOT + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if commit is None:
        _copy_tree(root, partial)
    else:
        _extract_commit(root, commit, partial)
    names = sorted(str(p.relative_to(partial)) for p in partial.rglob("*") if p.is_file())
    record = {
        "commit": _git(root, "rev-parse", "--verify", f"{commit or 'HEAD'}^{{commit}}").strip(),
        "changed": [] if commit else _git(root, "status", "--porcelain").splitlines(),
        "files": len(names),
        "sha256": _digest(partial, names),
    }
    write_whole(folder / RECORD, json.dumps(record, indent=1) + "\n")
    partial.rename(final)
    return final


def _copy_tree(root: Path, to: Path) -> None:
    """Folders of other jobs are left out, wherever they lie: they hold copies of the code themselves."""
    listed = list(filter(None, _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")))
    job_folders = {str(Path(name).parent) for name in listed if Path(name).name == RECORD}
    for name in listed:
        source = root / name
        in_job = any(str(parent) in job_folders for parent in Path(name).parents)
        if in_job or not (source.is_file() or source.is_symlink()):
            continue
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, to / name, follow_symlinks=False)


def _extract_commit(root: Path, commit: str, to: Path) -> None:
    with tempfile.TemporaryFile() as file:
        done = subprocess.run(["git", "archive", commit], cwd=root, stdout=file, stderr=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise SlurmError(
                f"--commit {commit}: {done.stderr.decode().strip()}; give a commit, branch or tag of {root}"
            )
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            archive.extractall(to, filter="data")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SlurmError("git is not installed; the code of a job is copied from a git repository") from error
    if done.returncode != 0:
        raise SlurmError(f"{root}: git {arguments[0]}: {done.stderr.strip()}; the code has to lie in a git repository")
    return done.stdout


def _digest(root: Path, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        path = root / name
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()
