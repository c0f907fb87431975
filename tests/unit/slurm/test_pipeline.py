"""Pipeline files: what they may say, and the jobs that come of them."""

from pathlib import Path

import pytest
import yaml

from slurm import pipeline as module
from slurm import pipeline_checks
from slurm.attempts import CRASHED, DONE, Attempts, save_attempts
from slurm.batch_job import batch_script
from slurm.cli import main
from slurm.lock import holder
from slurm.pipeline_checks import check_recipes
from slurm.points import make_points
from slurm.resources import DEFAULTS
from slurm.spec import load_spec, save_spec
from slurm.step_job import Fills, step_job
from slurm.steps import Pipeline, Step
from slurm.typed import SlurmError, load_yaml
from tests.helpers.paths import ROOT
from tests.unit.slurm.samples import start, write_program


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
        ({"name": "s", "command": "x 'y"}, "cannot be split into words"),
        ({"name": "s", "command": " "}, "got no words"),
        ({"name": "s", "command": "x && y"}, "got '&&', but no shell reads it"),
        ({"name": "s", "command": "x --out $SCRATCH/y"}, "got '$SCRATCH/y', but no shell reads it"),
        ({"name": "s", "command": "x ~/y"}, "but no shell reads it"),
        (
            {"name": "s", "recipe": "r", "ds_config": "d", "overrides": ["run_dir=${HOME}/y"]},
            "give the path as a value",
        ),
        ({"name": "", "command": "x"}, "fit for a directory"),
        ({"name": "50%", "command": "x"}, "fit for a directory"),
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
    save_attempts(job.folder, 0, Attempts(starts=(start(0, DONE),)))
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


@pytest.mark.parametrize("name", ["", "../x", "/tmp/x", "a b/c"])
def test_a_pipeline_stays_in_its_folder(tmp_path, name):
    with pytest.raises(SlurmError, match="name: got .*fit for a directory"):
        load(tmp_path, {"name": "a", "command": "x"}, name=name)


def test_errors_name_the_step(here, capsys):
    load(here, {"name": "a", "command": "x"}, {"name": "b", "command": "x {sed}"}, values={"seed": 1})
    assert main(["pipeline", "p.yaml", "--dry-run"]) == 2
    assert "error: step b: {sed}: has no value; did you mean 'seed'?" in capsys.readouterr().err


def test_two_steps_cannot_train_in_one_directory(here, capsys):
    (here / "r.yaml").write_text("{run_dir: runs/x, stage: align}")
    (here / "ds.json").write_text("{}")
    load(here, *({"name": name, "recipe": "r.yaml", "ds_config": "ds.json"} for name in "ab"))
    assert main(["pipeline", "p.yaml", "--dry-run"]) == 2
    assert f"steps a and b: have the same run_dir {here / 'runs' / 'x'}" in capsys.readouterr().err


@pytest.fixture
def cluster(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretended cluster, and a recipe with its DeepSpeed file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "check_recipes", lambda jobs, code: "")
    monkeypatch.setattr(module, "take_snapshot", lambda root, commit: (root / "snapshot").mkdir())
    (tmp_path / "r.yaml").write_text("{run_dir: runs/x, stage: align, steps: 3}")
    (tmp_path / "ds.json").write_text("{}")
    return tmp_path / "runs" / "slurm" / "p"


TRAIN = {"name": "train", "recipe": "r.yaml", "ds_config": "ds.json", "overrides": ["seed={seed}"]}


def test_a_failed_step_may_be_changed_and_goes_on_with_the_recipe_as_it_is_now(cluster, tmp_path, capsys):
    load(tmp_path, {"name": "data", "command": "make"}, TRAIN, values={"seed": 1})
    assert main(["pipeline", "p.yaml"]) == 0
    save_attempts(cluster / "00-data", 0, Attempts(starts=(start(0, DONE, job="17"),)))
    save_attempts(cluster / "01-train", 0, Attempts(starts=(start(0, CRASHED, job="18", reason="seed"),)))
    load(tmp_path, {"name": "data", "command": "make"}, {**TRAIN, "resources": {"nodes": 2}}, values={"seed": 2})
    (tmp_path / "r.yaml").write_text("{run_dir: runs/x, stage: align, steps: 4}")
    capsys.readouterr()
    assert main(["pipeline", "p.yaml"]) == 0
    said = capsys.readouterr().out
    assert "data: done" in said
    assert "train: goes on with r.yaml, which has changed" in said
    assert "train: job 19" in said
    spec = load_spec(cluster / "01-train")
    assert (spec.works[0].command[-1], spec.works[0].steps, spec.nodes) == ("seed=2", 4, 2)
    assert "steps: 4" in (cluster / "01-train" / "recipe.yaml").read_text()
    assert holder(tmp_path / "runs" / "x").job == "19"


def test_what_is_queued_cannot_be_changed(cluster, tmp_path, capsys):
    load(tmp_path, TRAIN, values={"seed": 1})
    assert main(["pipeline", "p.yaml"]) == 0
    (tmp_path / "queue").write_text("17|PENDING|Priority|\n")
    assert main(["pipeline", "p.yaml"]) == 0
    assert "train: waiting" in capsys.readouterr().out
    assert main(["pipeline", "p.yaml", "seed=2"]) == 2
    assert "cancel what waits in order to change it" in capsys.readouterr().err


def test_a_step_that_sbatch_refuses_holds_no_run_directory(cluster, programs, tmp_path, capsys):
    load(tmp_path, TRAIN, values={"seed": 1})
    write_program(programs / "sbatch", "echo refused >&2; exit 1")
    for _ in range(2):
        assert main(["pipeline", "p.yaml"]) == 2
        assert holder(tmp_path / "runs" / "x") is None
    assert "sbatch refuses the job" in capsys.readouterr().err


def test_a_command_is_one_task_with_one_gpu_unless_it_says_more(cluster, programs, tmp_path, capsys):
    write_program(programs / "sinfo", "echo 'gpu*|2|gpu:8|64'")
    (tmp_path / "site.yaml").write_text("gpus_per_node: 8\ncpus_per_task: 12\n")
    cpu = {"name": "cpu", "command": "x", "resources": {"device": "cpu"}}
    more = {"name": "more", "command": "x", "resources": {"gpus_per_node": 4}}
    load(tmp_path, {"name": "one", "command": "x"}, cpu, more, TRAIN, values={"seed": 1}, resources={"nodes": 2})
    assert main(["pipeline", "p.yaml", "--dry-run", "--site", "site.yaml"]) == 0
    scripts = capsys.readouterr().out.split("#### ")[1:]
    asked = [[line for line in script.splitlines() if "-per-node" in line and "SBATCH" in line] for script in scripts]
    assert asked == [
        ["#SBATCH --gpus-per-node=1", "#SBATCH --ntasks-per-node=1"],
        ["#SBATCH --ntasks-per-node=1"],
        ["#SBATCH --gpus-per-node=4", "#SBATCH --ntasks-per-node=1"],
        ["#SBATCH --gpus-per-node=8", "#SBATCH --ntasks-per-node=8"],
    ]
    assert ["#SBATCH --nodes=2" in script for script in scripts] == [False, False, False, True]


def test_a_folder_of_something_else_is_left_alone(cluster, tmp_path, capsys):
    load(tmp_path, {"name": "a", "command": "x"})
    assert main(["pipeline", "p.yaml", "--folder", "."]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert not (tmp_path / "snapshot").exists()


def test_a_misspelt_field_of_the_last_step_is_found_before_the_first_is_submitted(cluster, tmp_path):
    steps = [{**TRAIN, "name": name, "overrides": [f"run_dir=runs/{name}", "optim.lrr={seed}"]} for name in "ab"]
    load(tmp_path, *steps, values={"seed": 1})
    pipeline = load_yaml(Pipeline, tmp_path / "p.yaml", "pipeline")
    fills = Fills(values={"seed": "1"}, directory=tmp_path)
    jobs = {one.name: step_job(tmp_path / "p", i, one, DEFAULTS, fills) for i, one in enumerate(pipeline.steps)}
    with pytest.raises(SlurmError) as caught:
        check_recipes(jobs, ROOT)
    assert "step a: command line, optim.lrr=1: optim.lrr: unknown field" in str(caught.value)
    assert "step b: command line, optim.lrr=1" in str(caught.value)


def test_commands_alone_ask_the_trainer_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline_checks, "check_settings", lambda *_: pytest.fail("was asked"))
    job = step_job(tmp_path / "p", 0, Step(name="s", command="x"), DEFAULTS, Fills(directory=tmp_path))
    assert check_recipes({"s": job}, ROOT) == ""


def test_running_points_are_not_cancelled_for_a_point_that_failed_before(cluster, tmp_path, capsys):
    points = [{"seed": [0, 1]}]
    load(tmp_path, *({"name": name, "command": "x {seed}", "points": True} for name in "ab"), points=points)
    assert main(["pipeline", "p.yaml"]) == 0
    save_attempts(cluster / "00-a", 0, Attempts(starts=(start(0, DONE, job="17_0"),)))
    save_attempts(cluster / "00-a", 1, Attempts(starts=(start(0, CRASHED, job="17_1"),)))
    (tmp_path / "queue").write_text("18_0|RUNNING|None|n1\n")
    capsys.readouterr()
    assert main(["pipeline", "p.yaml"]) == 0
    said = capsys.readouterr().out
    assert "a: job 19" in said
    assert "b: failed, running; what failed is done again when this is called after its end" in said
    assert not (tmp_path / "cancelled").exists()


def test_a_shell_may_read_variables_and_braces_of_other_kinds_stay():
    command = "bash -c 'ls $HOME ${x} > {out}'"
    assert Step(name="s", command=command).command == command
    assert Step(name="s", recipe="r", ds_config="d", overrides=("data.view={tile_size: 1}", "x=1~2")).overrides


def test_points_that_would_do_the_same_or_leave_the_same_file_are_refused(tmp_path):
    step = Step(name="s", command="x", points=True)
    with pytest.raises(SlurmError, match="is the same for all 4 points; put {point}"):
        step_job(tmp_path / "p", 0, step, DEFAULTS, point_fills(tmp_path))
    step = Step(name="s", command="x {point}", points=True, results="{root}/{seed}.json")
    with pytest.raises(SlurmError, match=r"results: 2 points have the file .*0\.json"):
        step_job(tmp_path / "p", 0, step, DEFAULTS, point_fills(tmp_path))
