"""A working tree or a named commit in, a copy of it in the job folder out: later edits cannot change a queued job."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from slurm.typed import SlurmError, write_whole

SNAPSHOT, PARTIAL = "snapshot", "snapshot.partial"
RECORD = "snapshot.json"
ROOT = Path(__file__).resolve().parents[1]
MOST_ADDED_MIB = 64
"""Files that git does not know are copied too, up to so much."""


def take_snapshot(folder: Path, commit: str | None, root: Path = ROOT) -> Path:
    """Copy the code to `folder/snapshot`, whole or not at all, and say in `folder/snapshot.json` what it is.

    Args:
        folder: of the job.
        commit: any name git knows; None for the working tree: tracked files and untracked ones that are not ignored.
        root: of the repository.

    Raises:
        SlurmError: no git repository, no such commit, or data among the files that git does not know.
    """
    final, partial = folder / SNAPSHOT, folder / PARTIAL
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


@contextlib.contextmanager
def code_of(commit: str | None, root: Path = ROOT) -> Iterator[Path]:
    """Where the code of a commit can be read for a while; of the working tree that is the root itself.

    Raises:
        SlurmError: no such commit.
    """
    if commit is None:
        yield root
        return
    with tempfile.TemporaryDirectory() as place:
        _extract_commit(root, commit, Path(place))
        yield Path(place)


def _copy_tree(root: Path, to: Path) -> None:
    """Folders of other jobs are left out, wherever they lie: they hold copies of the code themselves."""
    tracked, added = (_listed(root, option) for option in ("--cached", "--others"))
    job_folders = {str(Path(name).parent) for name in (*tracked, *added) if Path(name).name == RECORD}
    tracked, added = ([name for name in names if not _is_within(name, job_folders)] for names in (tracked, added))
    _check_size(root, added)
    for name in (*tracked, *added):
        source = root / name
        if source.is_file() or source.is_symlink():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name, follow_symlinks=False)


def _listed(root: Path, option: str) -> list[str]:
    """Files that git tracks (`--cached`), or neither tracks nor ignores (`--others`)."""
    return list(filter(None, _git(root, "ls-files", "-z", option, "--exclude-standard").split("\0")))


def _is_within(name: str, folders: set[str]) -> bool:
    return any(str(parent) in folders for parent in Path(name).parents)


def _check_size(root: Path, added: Sequence[str]) -> None:
    """Refuse to copy data: shards and weights that lie in the working tree are no code."""
    sizes: Counter[str] = Counter()
    for name in added:
        if (root / name).is_file():
            sizes[name.partition("/")[0]] += (root / name).stat(follow_symlinks=False).st_size
    if sizes.total() > MOST_ADDED_MIB << 20:
        most = ", ".join(f"{name} ({size / 2**20:.0f} MiB)" for name, size in sizes.most_common(3))
        raise SlurmError(
            f"{root}: files that git neither tracks nor ignores would be copied with the code, and take "
            f"{sizes.total() / 2**20:.0f} MiB, more than {MOST_ADDED_MIB}: {most}; name data in .gitignore or "
            ".git/info/exclude, or move it out of the working tree"
        )


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
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
        )
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
        digest.update(os.fsencode(name) + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()
