"""Checkpoints with a fake engine and a group of one: whole or absent, and every damage found."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainer.checkpoint import CheckpointError, Checkpoints
from trainer.state import TrainState


class _Alone:
    """Stands for `Ranks` of a world of one."""

    rank, world_size = 0, 1

    def on_main(self, act):
        return act()

    def gather(self, value):
        return [value]

    def barrier(self):
        pass


@dataclass
class _FakeEngine:
    content: bytes
    loaded: bytes = b""

    def save_state(self, directory: Path) -> None:
        (directory / "state").mkdir(parents=True)
        (directory / "state" / "optim.pt").write_bytes(self.content)

    def load_state(self, directory: Path) -> None:
        self.loaded = (directory / "state" / "optim.pt").read_bytes()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, said: list[str]) -> Checkpoints:
    root = tmp_path / "checkpoints"
    root.mkdir()
    return Checkpoints(root=root, ranks=_Alone(), keep=2, recipe="steps: 9\n", say=said.append)


def _save(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints.save(_FakeEngine(content=b"weights of %d" % step), TrainState(step=step, position=2 * step))


def test_saved_checkpoint_is_found_and_loads_the_same_state(checkpoints):
    path = _save(checkpoints, 5)
    engine = _FakeEngine(content=b"")
    assert checkpoints.find() == path
    assert checkpoints.load(path, engine) == TrainState(step=5, position=10)
    assert engine.loaded == b"weights of 5"
    assert (checkpoints.root / "latest").read_text() == "step-000005\n"


def test_only_the_newest_are_kept(checkpoints):
    for step in (1, 2, 10):
        _save(checkpoints, step)
    assert sorted(p.name for p in checkpoints.root.glob("step-*")) == ["step-000002", "step-000010"]


def test_no_checkpoint_is_none(checkpoints):
    assert checkpoints.find() is None


def test_interrupted_save_is_never_taken_for_a_checkpoint(checkpoints):
    path = _save(checkpoints, 1)

    class Dying(_FakeEngine):
        def save_state(self, directory: Path) -> None:
            super().save_state(directory)
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.save(Dying(content=b"half"), TrainState(step=2))
    assert checkpoints.find() == path
    assert [p.name for p in checkpoints.root.glob("step-*")] == ["step-000001"]


def test_every_flipped_bit_of_every_file_is_refused_by_name_and_the_one_before_used(checkpoints, said):
    before, newest = _save(checkpoints, 1), _save(checkpoints, 2)
    files = [path for path in newest.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        whole = path.read_bytes()
        for place in range(0, len(whole) * 8, 7):
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(bytes(damaged))
            said.clear()
            assert checkpoints.find() == before, (path, place)
            assert str(path) in said[0]
        path.write_bytes(whole)
    assert checkpoints.find() == newest


def test_missing_and_shortened_files_are_refused(checkpoints, said):
    before, newest = _save(checkpoints, 1), _save(checkpoints, 2)
    (newest / "recipe.yaml").write_text("")
    assert checkpoints.find() == before
    (newest / "recipe.yaml").unlink()
    assert checkpoints.find() == before
    assert "got 0 bytes" in said[0]
    assert "missing" in said[1]


def test_only_damaged_checkpoints_are_an_error(checkpoints):
    (_save(checkpoints, 1) / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged"):
        checkpoints.find()


def test_another_number_of_ranks_is_refused_clearly(checkpoints):
    path = _save(checkpoints, 1)
    two = _Alone()
    two.world_size = 2
    other = Checkpoints(root=checkpoints.root, ranks=two, keep=2, recipe="", say=print)
    with pytest.raises(CheckpointError, match="written by 1 ranks, got 2"):
        other.damage(path)


def test_manifest_lists_size_and_digest_of_every_other_file(checkpoints):
    path = _save(checkpoints, 3)
    manifest = json.loads((path / "manifest.txt").read_text().partition("\n")[2])
    names = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == names - {"manifest.txt"}
    assert manifest["world_size"] == 1
