"""Run directories: which may be continued."""

import json
from pathlib import Path

import pytest

from trainer import run_dir as run_dir_module
from trainer.hashes import weights_record
from trainer.run_dir import RunDir, RunDirError
from trainer.state import TrainState

RECIPE = "steps: 5\nlog_every: 1\noptim:\n  lr: {vision: 1.0}\ndata:\n  workers: 2\n"


@pytest.fixture
def begun(tmp_path: Path) -> RunDir:
    run_dir = RunDir(path=tmp_path / "run")
    run_dir.begin(RECIPE, {"a": 1}, world_size=2)
    return run_dir


def test_begun_directory_says_what_it_is_made_of(begun):
    assert (begun.path / "recipe.yaml").read_text() == RECIPE
    assert json.loads((begun.path / "ds_config.json").read_text()) == {"a": 1}
    environment = json.loads((begun.path / "environment.json").read_text())
    assert environment["world_size"] == 2
    assert "torch" in environment["packages"]


def test_a_place_where_no_directory_can_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunDirError, match=rf"run_dir: got {path}, .*\(Not a directory\); give another one"):
            RunDir(path=path).begin(RECIPE, {}, world_size=1)


def test_same_recipe_and_harmless_changes_may_continue(begun):
    begun.check_recipe(RECIPE, world_size=2)
    begun.check_recipe(RECIPE.replace("log_every: 1", "log_every: 7").replace("workers: 2", "workers: 0"), world_size=2)


def test_more_layers_may_be_checkpointed_after_memory_ran_out(begun):
    begun.check_recipe(RECIPE + "model:\n  checkpointing: {vision: all, language: 12, gpu_gib: 80.0}\n", world_size=2)


def test_a_full_disk_at_the_start_is_named(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_dir_module, "write_atomically", full)
    with pytest.raises(RunDirError, match=r"cannot be written \(No space left on device\); make room there"):
        RunDir(path=tmp_path / "run").begin(RECIPE, {}, world_size=1)


def test_a_step_may_be_divided_anew_among_other_ranks_but_not_grow(begun):
    halved = RECIPE + "batch:\n  micro_batches: 2\n"
    begun.check_recipe(halved, world_size=1)
    with pytest.raises(RunDirError, match=r"batch\.micro_batches: begun with None, got 2"):
        begun.check_recipe(halved, world_size=2)


def test_change_of_what_is_learnt_is_refused_by_field(begun):
    with pytest.raises(RunDirError, match=r"optim\.lr\.vision: begun with 1.0, got 2.0"):
        begun.check_recipe(RECIPE.replace("1.0", "2.0"), world_size=2)


def test_run_is_finished_only_with_summary_and_model(begun):
    assert begun.summary() is None
    begun.write_summary("align", TrainState(step=5, seconds=2.0, samples=10.0).with_losses([2.0, 4.0]))
    assert begun.summary() is None
    begun.model.mkdir()
    assert begun.summary() == {
        "stage": "align",
        "steps": 5,
        "seconds": 2.0,
        "loss_first": 3.0,
        "loss_last": 3.0,
        "samples_per_s": 5.0,
    }


def test_directories_are_moved_aside_under_new_names(begun):
    assert begun.move_aside() == begun.path.with_name("run.old-1")
    assert begun.move_aside() is None
    begun.path.mkdir()
    assert begun.move_aside() == begun.path.with_name("run.old-2")


class _Files:
    def __init__(self, *files: Path) -> None:
        self.files = files


def test_other_frozen_weights_are_refused_by_field(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"abc")
    begun = RunDir(path=tmp_path / "run")
    begun.check_inputs(weights_record({"model.teacher": _Files(file)}))
    begun.begin(RECIPE, {}, world_size=1, inputs=weights_record({"model.teacher": _Files(file)}))
    begun.check_inputs(weights_record({"model.teacher": _Files(file)}))
    file.write_bytes(b"abd")
    with pytest.raises(RunDirError, match=r"model\.teacher: begun with .* of sha256 .* got"):
        begun.check_inputs(weights_record({"model.teacher": _Files(file)}))
