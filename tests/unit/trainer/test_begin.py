"""Whose a run directory is: of the recipe that took steps in it, and of the newest one where none did."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.stages import write_recipe
from trainer.begin import begin, has_steps, is_finished
from trainer.config import load_recipe
from trainer.run_dir import RunDir, RunDirError

FIRST, OTHER = "optim.grad_clip=1.0", "optim.grad_clip=2.0"
DATA = {"data.datasets.driving": {"from": "shards", "sha256": "1" * 64}}
FOUND = ("codebook.safetensors", "quarantine.jsonl", "samples/rank-00000.jsonl")
OTHER_DATA = {"data.datasets.driving": {"from": "shards", "sha256": "2" * 64}}


def _start(root: Path, *overrides: str, data: Mapping[str, object] = DATA, anew: bool = False) -> RunDir:
    """A start that ends when it has begun."""
    recipe, _ = load_recipe(write_recipe(root, "distill", root / "run"), overrides)
    run_dir, ranks = RunDir(path=recipe.run_dir), SimpleNamespace(world_size=1)
    stage = SimpleNamespace(bases=dict)
    read = SimpleNamespace(recipe=recipe, mixture=SimpleNamespace(record=lambda: dict(data)))
    with ExitStack() as held:
        assert not is_finished(run_dir, recipe, 1)
        assert begin(run_dir, stage, read, {}, ranks, held, anew=anew) == data
    return run_dir


def _leave(run_dir: RunDir) -> None:
    """What a start leaves that ended at its first pack, and what is not its own."""
    for name in (*FOUND, "tensorboard/events", "mine.log"):
        (run_dir.path / name).parent.mkdir(exist_ok=True)
        (run_dir.path / name).write_text(name)
    (run_dir.path / "metrics.jsonl").touch()


def _files(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "lock")
    return {path.relative_to(directory).as_posix(): path.read_text() for path in files}


@pytest.mark.parametrize(("override", "data"), [(OTHER, DATA), (FIRST, OTHER_DATA)])
def test_a_start_that_came_to_no_step_gives_way_to_another_and_nothing_is_lost(tmp_path, capsys, override, data):
    run_dir = _start(tmp_path, FIRST)
    _leave(run_dir)
    before = _files(run_dir.path)
    _start(tmp_path, override, data=data)
    aside = run_dir.path.with_name("run.old-1")
    said = capsys.readouterr().out
    assert "no step was taken with that, and this start takes the directory over" in said
    assert f"what was left there is in {aside}\n" in said
    assert ("optim.grad_clip: begun with 1.0, got 2.0" in said) == (override == OTHER)
    assert ("data.datasets.driving: begun with shards of sha256 1111" in said) == (data == OTHER_DATA)
    moved, kept = _files(aside), _files(run_dir.path)
    assert {*FOUND, "recipe.yaml"} < set(moved)
    assert {"tensorboard/events", "mine.log", "metrics.jsonl", "recipe.yaml"} < set(kept)
    assert not set(FOUND) & set(kept)
    assert {name: moved.get(name, kept.get(name)) for name in before} == before
    assert ("grad_clip: 2.0" in kept["recipe.yaml"]) == (override == OTHER)


@pytest.mark.parametrize(
    "left",
    [
        "checkpoints/step-000002/manifest.txt",
        "checkpoints/step-000002.partial/rank-00000.safetensors",
        "checkpoints/step-000002-good/state.json",
        "metrics.jsonl",
        "skipped.jsonl",
        "summary.json",
        "model/config.json",
        "models/step-000002/recipe.yaml",
        "profile/steps_1-2.rank_0.json.gz",
    ],
)
def test_a_directory_in_which_a_step_was_taken_is_refused_and_left_as_it_was(tmp_path, left):
    run_dir = _start(tmp_path, FIRST)
    _leave(run_dir)
    (run_dir.path / left).parent.mkdir(parents=True, exist_ok=True)
    (run_dir.path / left).write_text("{}\n")
    before = _files(tmp_path)
    assert has_steps(run_dir)
    with pytest.raises(RunDirError, match=r"optim\.grad_clip: begun with 1.0, got 2.0"):
        _start(tmp_path, OTHER)
    with pytest.raises(RunDirError, match=r"was begun with other frozen weights or data"):
        _start(tmp_path, FIRST, data=OTHER_DATA)
    assert _files(tmp_path) == before


def test_the_same_recipe_goes_on_with_what_its_former_start_has_found(tmp_path):
    run_dir = _start(tmp_path, FIRST)
    _leave(run_dir)
    _start(tmp_path, FIRST, "log_every=7")
    assert (run_dir.path / "codebook.safetensors").is_file()
    assert not run_dir.path.with_name("run.old-1").exists()


def test_a_codebook_that_the_recipe_names_stays_where_it_is(tmp_path):
    run_dir = _start(tmp_path, FIRST)
    _leave(run_dir)
    _start(tmp_path, FIRST, f"distill.codebook={run_dir.path / 'codebook.safetensors'}")
    assert (run_dir.path / "codebook.safetensors").is_file()
    assert not (run_dir.path / "quarantine.jsonl").exists()


def test_never_to_resume_moves_the_whole_directory(tmp_path):
    run_dir = _start(tmp_path, FIRST)
    _leave(run_dir)
    _start(tmp_path, OTHER, anew=True)
    assert set(_files(run_dir.path)) == {"recipe.yaml", "ds_config.json", "environment.json", "inputs.json"}
    assert "mine.log" in _files(run_dir.path.with_name("run.old-1"))
