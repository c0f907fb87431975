"""Pipeline files: what they may say, and the jobs that come of them."""

from pathlib import Path

import pytest
import yaml

from slurm import pipeline as module
from slurm.cli import main
from slurm.pipeline import Pipeline, Step, step_job
from slurm.resources import DEFAULTS
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
    job = step_job(tmp_path / "p", 4, step, DEFAULTS, tmp_path)
    assert job.folder == tmp_path / "p" / "04-s"
    assert [work.command for work in job.spec.works][2] == ("python", "-m", "x", "--part", "2/3", "a b")
    assert job.spec.works[1].progress == tmp_path / "out" / "1"
    assert job.spec.tasks_per_node == 1


def test_a_dry_run_prints_a_script_a_step_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "complete", lambda asked, dry_run: asked)
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
