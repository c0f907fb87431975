"""Lines for a disk that is full: /dev/full stands for it, and refuses every byte."""

from pathlib import Path

import pytest

from trainer.lines import PatientLines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines.txt"


def _fill(path: Path) -> None:
    path.symlink_to("/dev/full")


def test_lines_follow_those_that_are_there(path):
    path.write_text("old\n")
    said: list[str] = []
    lines = PatientLines(path, said.append)
    for line in ("é1", "2"):
        lines.add(line)
        assert not lines.stuck
    lines.close()
    assert path.read_text() == "old\né1\n2\n"
    assert not said


def test_lines_wait_for_room_and_keep_their_order(path):
    said: list[str] = []
    lines = PatientLines(path, said.append)
    _fill(path)
    for line in ("1", "2"):
        lines.add(line)
        assert lines.stuck
    assert len(said) == 1
    assert f"{path} cannot be written: [Errno 28] No space left on device" in said[0]
    path.unlink()
    lines.add("3")
    assert not lines.stuck
    assert path.read_text() == "1\n2\n3\n"
    assert "written again" in said[1]
    lines.close()
    assert len(said) == 2


def test_what_is_lost_in_the_end_is_said(path):
    said: list[str] = []
    lines = PatientLines(path, said.append)
    _fill(path)
    for line in ("1", "2"):
        lines.add(line)
    lines.close()
    assert said[1] == f"{path}: 2 lines found no room on the disk and are lost"
