"""Pipeline files: what they may say, and the jobs that come of them."""

from pathlib import Path

import pytest
import yaml

from slurm import pipeline as module
from slurm.batch_job import batch_script
from slurm.cli import main
from slurm.points import make_points
from slurm.resources import DEFAULTS
from slurm.spec import save_spec
from slurm.step_job import Fills, step_job
from slurm.steps import Pipeline, Step
from slurm.typed import SlurmError, load_yaml


def load(tmp_path: Path, *steps: dict[str, object], **fields: object) -> Pipeline:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"name": "p", "steps": list(steps), **fields}))
    return load_yaml(Pipeline, tmp_path / "p.yaml", "pipeline")


def test_a_step_waits_for_the_one_before_unless_it_says_otherwise(tmp_path):
    made = load(
        tmp_path,
        {"name": "a", "command": "x"},
        {"name": "b", "command": "x"},
        {"name": "c", "command": "x", "after": ["a"]},
        {"name": "d", "command": "x", "after": []},
    )
    assert [made.waits_for(i) for i in range(4)] == [(), ("a",), ("a",), ()]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"name": "s"}, "give one of the two"),
        ({"name": "s", "command": "x", "recipe": "r.yaml"}, "give one of the two"),
        ({"name": "s", "recipe": "r.yaml"}, "ds_config: missing"),
        ({"name": "s", "command": "x", "array": 4}, "has no {part}"),
        ({"name": "s", "command": "x {part}", "array": 0}, "expected 1 or more"),
        ({"name": "s", "command": "x", "overrides": ["a=1"]}, "put them into the command"),
        ({"name": "s", "command": "x", "after": ["later"]}, "expected a step above it"),
        ({"name": "../s", "command": "x"}, "fit for a directory"),
        ({"name": "s", "command": "x", "resources": {"node": 3}}, "unknown field; did you mean"),
        ({"name": "s", "command": "x", "points": True}, "the pipeline has no points"),
        ({"name": "s", "command": "x {part}", "points": True, "array": 2}, "give one of the two"),
        ({"name": "s", "command": "x", "results": "scores.json"}, "are for commands with `points`"),
    ],
)
def test_steps_that_cannot_run_are_refused_by_field(tmp_path, step, said):
    with pytest.raises(SlurmError) as caught:
        load(tmp_path, step)
    assert said in str(caught.value)


def test_two_steps_of_one_name_are_refused(tmp_path):
    with pytest.raises(SlurmError, match="'a' occurs twice"):
        load(tmp_path, {"name": "a", "command": "x"}, {"name": "a", "command": "y"})


def test_parts_of_an_array_are_elements_with_their_number(tmp_path):
    step = Step(name="s", command="python -m x --part {part}/{parts} 'a b'", array=3, progress="out/{part}")
    job = step_job(tmp_path / "p", 4, step, DEFAULTS, Fills(directory=tmp_path))
    assert job.folder == tmp_path / "p" / "04-s"
    assert [work.command for work in job.spec.works][2] == ("python", "-m", "x", "--part", "2/3", "a b")
    assert job.spec.works[1].progress == tmp_path / "out" / "1"
    assert job.spec.tasks_per_node == 1


def point_fills(directory: Path) -> Fills:
    axes = [{"projector": ("linear", "mlp"), "data": ("[{path: '{root}/a'}]", "[]")}, {"seed": ("0", "1")}]
    return Fills(values={"root": "runs/x"}, points=make_points(axes), directory=directory)


def test_a_recipe_runs_for_each_point_with_its_values_filled_in(tmp_path):
    (tmp_path / "r.yaml").write_text("{run_dir: runs/unused, stage: align, steps: 3}")
    overrides = ("run_dir={root}/{point}", "data.datasets={data}", "seed={seed}", "data.view={tile_size: 112}")
    step = Step(name="s", recipe=str(tmp_path / "r.yaml"), ds_config="d", points=True, overrides=overrides)
    works = step_job(tmp_path / "p", 0, step, DEFAULTS, point_fills(tmp_path)).spec.works
    assert [work.values for work in works][1:3] == [
        {"projector": "linear", "seed": "1"},
        {"projector": "mlp", "seed": "0"},
    ]
    assert works[1].run_dir == tmp_path / "runs" / "x" / "001-projector=linear,seed=1"
    assert works[1].command[-3:] == ("data.datasets=[{path: 'runs/x/a'}]", "seed=1", "data.view={tile_size: 112}")
    assert works[2].command[-3] == "data.datasets=[]"


def test_points_that_would_train_in_one_directory_are_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("{run_dir: runs/x, stage: align}")
    step = Step(name="s", recipe=str(tmp_path / "r.yaml"), ds_config="d", points=True)
    with pytest.raises(SlurmError, match="4 points have the run_dir .*; put {point} into it"):
        step_job(tmp_path / "p", 0, step, DEFAULTS, point_fills(tmp_path))


def test_a_value_is_one_word_of_a_command_whatever_it_holds(tmp_path):
    step = Step(name="s", command="score '{data} x' --seed {seed}", points=True, results="{root}/{point}.json")
    work = step_job(tmp_path / "p", 0, step, DEFAULTS, point_fills(tmp_path)).spec.works[0]
    assert work.command == ("score", "[{path: 'runs/x/a'}] x", "--seed", "0")
    assert work.results == tmp_path / "runs" / "x" / "000-projector=linear,seed=0.json"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which pipelines can be planned without a cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "complete", lambda asked, dry_run: asked)
    return tmp_path


def test_points_wait_for_their_own_point_and_parts_for_all(here, monkeypatch):
    submitted = []
    monkeypatch.setattr(module, "has_sbatch", lambda: False)
    monkeypatch.setattr(module, "take_snapshot", lambda root, commit: None)

    def submit(job):
        submitted.append(job)
        job.folder.mkdir(parents=True)
        save_spec(job.folder, job.spec)
        (job.folder / "slurm_ids.json").write_text(f'{{"ids": ["{len(submitted)}_0"]}}')
        return (f"{len(submitted)}_0",)

    monkeypatch.setattr(module, "submit", submit)
    load(
        here,
        {"name": "data", "command": "x"},
        {"name": "train", "command": "x {seed}", "points": True},
        {"name": "ask", "command": "x {seed}", "points": True, "after": ["data", "train"]},
        {"name": "end", "command": "x"},
        points=[{"seed": [0, 1]}],
    )
    assert main(["pipeline", "p.yaml"]) == 0
    assert [(list(job.after), list(job.after_each)) for job in submitted] == [
        ([], []),
        (["1"], []),
        (["1"], ["2"]),
        (["3"], []),
    ]
    assert batch_script(submitted[2]).count("#SBATCH --dependency=afterok:1,aftercorr:2") == 1


def test_values_of_the_command_line_replace_those_of_the_file(here, capsys):
    load(here, {"name": "a", "command": "run {steps} {out}"}, values={"steps": 5, "root": "runs", "out": "{root}/a"})
    assert main(["pipeline", "p.yaml", "--dry-run", "root=other"]) == 0
    assert main(["pipeline", "p.yaml", "--dry-run", "step=9"]) == 2
    assert "got 'step', which is not among the values of the pipeline; did you mean 'steps'?" in capsys.readouterr().err


def test_a_folder_begun_with_other_values_is_not_gone_on_with(here, capsys):
    made = load(here, {"name": "a", "command": "run {steps}"}, values={"steps": 5})
    fills = Fills(values={"steps": "5"}, directory=here)
    job = step_job(here / "runs" / "slurm" / "p", 0, made.steps[0], DEFAULTS, fills)
    job.folder.mkdir(parents=True)
    save_spec(job.folder, job.spec)
    assert main(["pipeline", "p.yaml", "--dry-run"]) == 0
    assert main(["pipeline", "p.yaml", "--dry-run", "steps=6"]) == 2
    assert "was begun with other commands, values or points" in capsys.readouterr().err


def test_a_dry_run_prints_a_script_a_step_and_writes_nothing(here, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("{run_dir: runs/x, stage: align}")
    (tmp_path / "ds.json").write_text("{}")
    load(
        tmp_path,
        {"name": "shards", "command": "python -m data_shards {part}", "array": 8, "throttle": 2},
        {"name": "align", "recipe": "r.yaml", "ds_config": "ds.json", "resources": {"gpus_per_node": 4}},
        resources={"qos": "low"},
    )
    before = sorted(tmp_path.iterdir())
    assert main(["pipeline", "p.yaml", "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert script.count("#!/bin/bash") == 2
    assert "#SBATCH --array=0-7%2" in script
    assert script.count("#SBATCH --qos=low") == 2
    assert "#SBATCH --ntasks-per-node=4" in script
    assert sorted(tmp_path.iterdir()) == before
