"""Checkpoints with a fake engine and a group of one: whole or absent, every damage found, and failures survived."""

import json
import os
import shutil
import threading
from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.waiting import wait_until
from trainer import checkpoint as checkpoint_module
from trainer.checkpoint import Checkpoints, SaveError
from trainer.engine import Snapshot
from trainer.fragments import fragment_name
from trainer.job import Job, _resume
from trainer.resume import CheckpointError, StoredCheckpoints
from trainer.state import TrainState


class _Alone:
    """Stands for `Ranks` of a world of one."""

    rank, world_size, is_main = 0, 1, True

    def on_main(self, act):
        return act()

    def gather(self, value):
        return [value]

    def sum(self, values):
        return list(values)


@dataclass
class _FakeEngine:
    """Trains one parameter of four values."""

    values: list[float]
    restored: list[float] = field(default_factory=list)
    refreshed: bool = False
    precision: str = "float32"

    def snapshot(self, *, with_replicated):
        tensors = {fragment_name("w", "fp32", 0): torch.tensor(self.values)}
        counters = {"engine": {"global_steps": 3}}
        return Snapshot(tensors=tensors, shapes={"w": [4]}, counters=counters, precision=self.precision)

    def restore(self, snapshot, reader):
        assert snapshot.counters == {"engine": {"global_steps": 3}}
        self.restored = reader.read("w", "fp32", 0, 4).tolist()

    def refresh(self):
        self.refreshed = True


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, said: list[str]) -> Checkpoints:
    root = tmp_path / "checkpoints"
    root.mkdir()
    return Checkpoints(root=root, ranks=_Alone(), keep=2, recipe="steps: 9\n", say=said.append)


@pytest.fixture
def stored(checkpoints: Checkpoints, said: list[str]) -> StoredCheckpoints:
    return StoredCheckpoints(root=checkpoints.root, ranks=_Alone(), say=said.append)


def _begin(checkpoints: Checkpoints, step: int, score: float | None = None) -> None:
    engine = _FakeEngine(values=[step, 0.1, -step, 1e-30])
    checkpoints.save(engine, TrainState(step=step, position=2 * step), score)


def _save(checkpoints: Checkpoints, step: int, score: float | None = None) -> Path:
    _begin(checkpoints, step, score)
    checkpoints.finish()
    return checkpoints.root / f"step-{step:06d}"


def _names(checkpoints: Checkpoints) -> list[str]:
    return sorted(p.name for p in checkpoints.root.glob("step-*") if not p.name.endswith(".partial"))


def test_saved_checkpoint_is_found_and_loads_the_same_state(checkpoints, stored):
    path = _save(checkpoints, 5)
    engine = _FakeEngine(values=[])
    assert stored.find() == path
    assert stored.load(path, engine) == TrainState(step=5, position=10)
    assert engine.restored == torch.tensor([5, 0.1, -5, 1e-30]).tolist()
    assert engine.refreshed
    assert (checkpoints.root / "latest").read_text() == "step-000005\n"


def test_another_precision_is_told_of_where_the_checkpoint_has_its_own(checkpoints, stored, said):
    path = _save(checkpoints, 5)
    stored.load(path, _FakeEngine(values=[]))
    assert said == []
    stored.load(path, _FakeEngine(values=[], precision="bfloat16"))
    assert len(said) == 1
    assert f"{path} was written in float32, and is continued in bfloat16" in said[0]
    record = json.loads((path / "engine.json").read_text())
    del record["precision"]
    (path / "engine.json").write_text(json.dumps(record))
    stored.load(path, _FakeEngine(values=[], precision="bfloat16"))
    assert len(said) == 1, "checkpoints from before it was kept are taken as they are"


def test_only_the_newest_are_kept(checkpoints):
    for step in (1, 2, 10):
        _save(checkpoints, step)
    assert _names(checkpoints) == ["step-000002", "step-000010"]


def test_the_best_is_kept_beside_the_newest(checkpoints):
    for step, score in ((1, 0.2), (2, 0.9), (3, None), (4, 0.9), (5, 0.1), (6, None), (7, 0.3)):
        _save(checkpoints, step, score)
    assert _names(checkpoints) == ["step-000004", "step-000006", "step-000007"]
    assert (checkpoints.root / "best").read_text() == "step-000004\n"
    assert (checkpoints.root / "latest").read_text() == "step-000007\n"


def test_a_score_is_the_best_against_what_is_on_disk_alone(checkpoints, monkeypatch):
    _save(checkpoints, 1, 0.5)
    assert not checkpoints.is_best(2, 0.5)
    assert checkpoints.is_best(2, 0.6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    _save(checkpoints, 2, 0.9)  # fails: there is no room
    assert checkpoints.is_best(3, 0.6)
    monkeypatch.undo()
    _begin(checkpoints, 3, 0.7)
    assert not checkpoints.is_best(4, 0.6)
    assert checkpoints.is_best(2, 0.6)  # of a past that a run went back to
    assert checkpoints.is_best(3, 0.7)  # as is the same step, which may be damaged


def test_checkpoints_of_an_abandoned_future_do_not_push_out_good_ones(checkpoints, stored, said):
    _save(checkpoints, 4)
    (_save(checkpoints, 6) / "state.json").write_text("{}")
    again = Checkpoints(root=checkpoints.root, ranks=_Alone(), keep=1, recipe="", say=said.append, newest=stored.find())
    _save(again, 5)
    assert _names(checkpoints) == ["step-000005"]


def test_after_closing_nothing_dropped_is_left_on_disk(checkpoints):
    for step in (1, 2, 3, 4):
        _save(checkpoints, step)
    checkpoints.close()
    assert sorted(p.name for p in checkpoints.root.iterdir()) == ["latest", "step-000003", "step-000004"]


def test_no_checkpoint_is_none(stored):
    assert stored.find() is None


def test_a_step_is_written_once(checkpoints):
    path = _save(checkpoints, 3)
    inode = path.stat().st_ino
    assert checkpoints.save_now(_FakeEngine(values=[0] * 4), TrainState(step=3)) == path
    assert path.stat().st_ino == inode


def test_a_step_is_written_again_with_its_score(checkpoints):
    path = _save(checkpoints, 3)
    checkpoints.save(_FakeEngine(values=[5.0] * 4), TrainState(step=3), 0.7, again=True)
    checkpoints.close()
    assert json.loads((path / "state.json").read_text())["score"] == 0.7
    assert (checkpoints.root / "best").read_text() == f"{path.name}\n"
    assert not _leftovers(checkpoints.root)


@pytest.mark.parametrize("renamed", [0, 1])
def test_killed_while_a_step_is_replaced_one_whole_checkpoint_is_left(checkpoints, stored, monkeypatch, renamed):
    path = _save(checkpoints, 3)
    replace, calls = os.replace, []

    def killed(source: Path, target: Path) -> None:
        if len(calls) == renamed:
            raise KeyboardInterrupt
        calls.append(source)
        replace(source, target)

    checkpoints.save(_FakeEngine(values=[5.0] * 4), TrainState(step=3), 0.7, again=True)
    monkeypatch.setattr("trainer.checkpoint.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.finish()
    monkeypatch.undo()
    assert stored.find() == path
    assert not _leftovers(checkpoints.root)


def test_a_checkpoint_that_cannot_be_replaced_keeps_its_name(checkpoints, stored, said, monkeypatch):
    path = _save(checkpoints, 3)
    replace = os.replace

    def refused(source: Path, target: Path) -> None:
        if source.name.endswith(".partial"):
            raise OSError("no")
        replace(source, target)

    checkpoints.save(_FakeEngine(values=[5.0] * 4), TrainState(step=3), 0.7, again=True)
    monkeypatch.setattr("trainer.checkpoint.os.replace", refused)
    checkpoints.finish()
    monkeypatch.undo()
    assert "was not written: no" in said[-1]
    assert json.loads((path / "state.json").read_text())["score"] is None
    assert stored.find() == path
    assert not _leftovers(checkpoints.root)


def _leftovers(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name not in ("step-000003", "latest", "best")]


def test_training_goes_on_while_a_checkpoint_is_written_and_it_counts_only_when_it_is_whole(
    checkpoints, stored, monkeypatch
):
    before = _save(checkpoints, 1)
    go = threading.Event()

    def slow(directory, files, write=checkpoint_module.write_hashed):
        go.wait(300)
        return write(directory, files)

    monkeypatch.setattr(checkpoint_module, "write_hashed", slow)
    engine = _FakeEngine(values=[2.0] * 4)
    checkpoints.save(engine, TrainState(step=2))
    engine.values = [3.0] * 4
    assert checkpoints.busy
    assert (checkpoints.root / "latest").read_text() == f"{before.name}\n"
    go.set()
    checkpoints.finish()
    assert not checkpoints.busy
    stored.load(stored.find(), engine)
    assert engine.restored == [2.0] * 4


def test_interrupted_save_is_never_taken_for_a_checkpoint(checkpoints, stored):
    path = _save(checkpoints, 1)
    _begin(checkpoints, 2)
    wait_until(lambda: not checkpoints.busy)
    assert (checkpoints.root / "step-000002.partial").is_dir()
    assert stored.find() == path
    assert [p.name for p in checkpoints.root.glob("step-*")] == ["step-000001"]


def _full_disk(directory, files):
    (directory / "half").write_text("half")
    raise OSError(28, "No space left on device", str(directory / "half"))


def test_a_save_that_fails_leaves_the_former_and_is_tried_again(checkpoints, stored, said, monkeypatch):
    before = _save(checkpoints, 1)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint_module, "write_hashed", _full_disk)
        _save(checkpoints, 2)
    assert len(said) == 1
    for words in ("step-000002 was not written", "No space left", "half", "GiB are free in", str(before), "goes on"):
        assert words in said[0]
    assert stored.find() == before
    assert _names(checkpoints) == ["step-000001"]
    assert stored.find() == before
    assert _save(checkpoints, 3) == stored.find()


def test_too_little_space_is_found_before_anything_is_written(checkpoints, said, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(100))
    _save(checkpoints, 2)
    assert "not enough space" in said[0]
    assert "it needs 0.000 GiB, 0.000 GiB are free" in said[0]
    assert not list(checkpoints.root.iterdir())


def test_a_directory_that_cannot_be_written_does_not_end_the_run(checkpoints, said):
    checkpoints.root.rmdir()
    checkpoints.root.write_text("a file where the directory was")
    _save(checkpoints, 2)
    assert "was not written" in said[0]


def test_a_stop_without_its_checkpoint_is_an_error(checkpoints, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "write_hashed", _full_disk)
    with pytest.raises(SaveError, match="step-000002"):
        checkpoints.save_now(_FakeEngine(values=[0] * 4), TrainState(step=2))


def test_every_flipped_bit_of_every_file_is_refused_by_name_and_the_one_before_used(checkpoints, stored, said):
    before, newest = _save(checkpoints, 1), _save(checkpoints, 2)
    files = [path for path in newest.rglob("*") if path.is_file()]
    assert len(files) == 6
    for path in files:
        whole = path.read_bytes()
        for place in range(0, len(whole) * 8, 7):
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(bytes(damaged))
            said.clear()
            assert stored.find() == before, (path, place)
            assert str(path) in said[0]
        path.write_bytes(whole)
    assert stored.find() == newest


def test_missing_and_shortened_files_are_refused(checkpoints, stored, said):
    before, newest = _save(checkpoints, 1), _save(checkpoints, 2)
    (newest / "recipe.yaml").write_text("")
    assert stored.find() == before
    (newest / "recipe.yaml").unlink()
    assert stored.find() == before
    assert "got 0 bytes" in said[0]
    assert "missing" in said[1]


def test_copies_under_other_names_are_no_checkpoints_and_stay(checkpoints, stored):
    path = _save(checkpoints, 1)
    copy = checkpoints.root / "step-000001-before-the-crash"
    shutil.copytree(path, copy)
    assert stored.find() == path
    for step in (2, 3, 4):
        _save(checkpoints, step)
    assert copy.is_dir()


def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(checkpoints, stored, said):
    former, newest = _save(checkpoints, 1), _save(checkpoints, 2)
    newest.rename(checkpoints.root / "step-000004")
    assert stored.find() == former
    assert "step-000004: got the state after step 2; give its name back" in said[0]


def test_a_directory_that_was_deleted_is_made_again(checkpoints, stored, said):
    _save(checkpoints, 1)
    shutil.rmtree(checkpoints.root)
    assert _save(checkpoints, 2) == stored.find()
    assert not said


def test_only_damaged_checkpoints_are_an_error(checkpoints, stored):
    (_save(checkpoints, 1) / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged"):
        stored.find()


def test_other_frozen_weights_or_data_are_refused(checkpoints, stored):
    inputs = {"model.teacher": {"from": "teachers/a", "sha256": "1" * 64}}
    checkpoints.inputs = inputs
    path = _save(checkpoints, 1)
    same = StoredCheckpoints(root=checkpoints.root, ranks=_Alone(), say=print, inputs=inputs)
    assert same.load(path, _FakeEngine(values=[])).step == 1
    other = {"model.teacher": {"from": "teachers/b", "sha256": "2" * 64}}
    for got in (other, {}):
        store = StoredCheckpoints(root=checkpoints.root, ranks=_Alone(), say=print, inputs=got)
        with pytest.raises(CheckpointError, match=r"model\.teacher: trained with teachers/a"):
            store.load(path, _FakeEngine(values=[]))


def test_manifest_lists_size_and_digest_of_every_other_file(checkpoints):
    path = _save(checkpoints, 3)
    manifest = json.loads((path / "manifest.txt").read_text().partition("\n")[2])
    names = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == names - {"manifest.txt"}
    assert manifest["world_size"] == 1


def test_a_checkpoint_is_dropped_though_a_killed_start_left_part_of_it_dropped_before(checkpoints, said):
    (checkpoints.root / "step-000001.dropped.partial").mkdir()
    (checkpoints.root / "step-000001.dropped.partial" / "rank-00000.safetensors").touch()
    for step in (1, 2, 3):
        _save(checkpoints, step)
    checkpoints.close()
    assert [path.name for path in sorted(checkpoints.root.glob("step-*"))] == ["step-000002", "step-000003"]
    assert said == []


def test_a_checkpoint_from_behind_the_last_step_is_refused(checkpoints, stored):
    path = _save(checkpoints, 5)
    job = Job(ds_config=path, recipe=path, overrides=(), resume=str(path))
    assert _resume(job, stored, _FakeEngine(values=[]), 5)[0].step == 5
    with pytest.raises(CheckpointError, match=r"got the state after step 5, expected at most steps = 4"):
        _resume(job, stored, _FakeEngine(values=[]), 4)


def test_what_all_ranks_meet_alike_is_said_once(checkpoints, monkeypatch):
    path = _save(checkpoints, 5)

    class Three(_Alone):
        world_size = 3

        def gather(self, value):
            return [value, value, "a disk of its own"] if isinstance(value, str) else [value]

    stored = StoredCheckpoints(root=checkpoints.root, ranks=Three(), say=print)
    monkeypatch.setattr(_FakeEngine, "restore", lambda *_: (_ for _ in ()).throw(ValueError("other parameters")))
    with pytest.raises(CheckpointError) as caught:
        stored.load(path, _FakeEngine(values=[]))
    assert str(caught.value) == (
        f"{path}: cannot be loaded: rank 0 and 1 more: other parameters; rank 2: a disk of its own"
    )
