"""The code of a job is a copy: of the working tree, or of a commit."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from slurm import snapshot
from slurm.snapshot import code_of, take_snapshot
from slurm.typed import SlurmError


def git(root: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    (root / "package").mkdir(parents=True)
    (root / "package" / "a.py").write_text("old")
    (root / "gone.py").write_text("gone")
    (root / ".gitignore").write_text("runs/\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    (root / "package" / "a.py").write_text("edited")
    (root / "new.py").write_text("new")
    (root / "gone.py").unlink()
    (root / "runs").mkdir()
    (root / "runs" / "big.bin").write_text("ignored")
    return root


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_working_tree_is_copied_with_edits_and_new_files_and_without_ignored_ones(tmp_path, root):
    taken = take_snapshot(tmp_path / "job", None, root)
    assert names(taken) == {".gitignore", "package/a.py", "new.py"}
    (root / "package" / "a.py").write_text("later")
    assert (taken / "package" / "a.py").read_text() == "edited"
    record = json.loads((tmp_path / "job" / "snapshot.json").read_text())
    assert record["files"] == 3
    assert any("package/a.py" in line for line in record["changed"])


def test_folders_of_other_jobs_are_left_out(tmp_path, root):
    take_snapshot(root / "jobs" / "first", None, root)
    taken = take_snapshot(root / "jobs" / "second", None, root)
    assert names(taken) == {".gitignore", "package/a.py", "new.py"}


def test_a_commit_is_copied_as_it_was(tmp_path, root):
    taken = take_snapshot(tmp_path / "job", "HEAD", root)
    assert names(taken) == {".gitignore", "package/a.py", "gone.py"}
    assert (taken / "package" / "a.py").read_text() == "old"


def test_an_unknown_commit_or_no_repository_is_refused(tmp_path, root):
    with pytest.raises(SlurmError, match="--commit nowhere"):
        take_snapshot(tmp_path / "job", "nowhere", root)
    (tmp_path / "plain").mkdir()
    with pytest.raises(SlurmError, match="has to lie in a git repository"):
        take_snapshot(tmp_path / "job2", None, tmp_path / "plain")
    assert not (tmp_path / "job" / "snapshot").exists()


def test_data_among_the_files_that_git_does_not_know_is_not_copied(tmp_path, root, monkeypatch):
    monkeypatch.setattr(snapshot, "MOST_ADDED_MIB", 1)
    (root / "shards").mkdir()
    (root / "shards" / "0.tar").write_bytes(bytes(3 << 20))
    with pytest.raises(SlurmError, match=r"take 3 MiB, more than 1: shards \(3 MiB\).*gitignore"):
        take_snapshot(tmp_path / "job", None, root)
    assert not (tmp_path / "job" / "snapshot").exists()
    git(root, "add", "shards")
    assert "shards/0.tar" in names(take_snapshot(tmp_path / "job", None, root))


def test_names_that_are_no_text_are_copied(tmp_path, root):
    odd = os.fsdecode(b"caf\xe9 \xc3\xa9.py")
    (root / odd).write_text("x")
    taken = take_snapshot(tmp_path / "job", None, root)
    assert (taken / odd).read_text() == "x"


def test_the_code_of_a_commit_can_be_looked_at(root):
    with code_of("HEAD", root) as code:
        assert (code / "package" / "a.py").read_text() == "old"
    assert not code.exists()
    with code_of(None, root) as code:
        assert code == root
