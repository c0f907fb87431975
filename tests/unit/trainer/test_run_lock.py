"""One run a directory: another process finds it held, whoever starts first, and free when the first is gone."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from trainer.run_lock import LockedError, locked, take_away

_HOLD = """
import sys
from pathlib import Path
from trainer.run_lock import locked
with locked(Path(sys.argv[1]), print, 0.0):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the directory until it gets a line."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_held_directory_is_refused_and_its_holder_named(tmp_path, holder):
    said: list[str] = []
    text = rf"run_dir: got {tmp_path}, where process {holder.pid} on \S+ is at work; wait for it, or give another"
    with pytest.raises(LockedError, match=text), locked(tmp_path, said.append, 0.3):
        pass
    assert len(said) == 1
    assert f"is held by process {holder.pid}" in said[0]


def test_it_is_free_as_soon_as_the_holder_was_killed(tmp_path, holder):
    said: list[str] = []
    holder.kill()
    with locked(tmp_path, said.append, 30.0):
        pass
    holder.wait()


def test_a_lock_file_that_its_holder_took_away_is_made_anew(tmp_path, holder):
    def say(text: str) -> None:
        take_away(tmp_path)
        holder.kill()

    with locked(tmp_path, say, 30.0):
        assert (tmp_path / "lock").read_text().startswith("process ")


def test_a_run_that_ends_in_time_is_waited_for(tmp_path, holder):
    def say(text: str) -> None:
        holder.stdin.write("go\n")
        holder.stdin.flush()

    with locked(tmp_path, say, 30.0):
        assert holder.wait(30) == 0


def test_the_same_directory_is_taken_again_and_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path, print, 0.0):
            pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(LockedError, match=r"which cannot be written \(No such file"), locked(tmp_path / "no", print):
        pass
