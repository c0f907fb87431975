"""`python -m slurm submit`: what the batch script says, and what is refused before anything is written."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slurm import lock, recipe_check, submit
from slurm.cli import main
from slurm.cluster import JobState, Partition
from slurm.recipe_check import recipe_facts, validate
from slurm.typed import SlurmError
from tests.helpers.paths import ROOT

HERE = [Partition(name="gpu", is_default=True, nodes=4, gpus=8, cpus=64)]


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A submit command on a pretended cluster; nothing of it can reach a real one."""
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"stage": "distill", "run_dir": "runs/x", "steps": 5}))
    (tmp_path / "ds.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DRIVLM_SITE", raising=False)
    monkeypatch.setattr(submit, "has_sbatch", lambda: True)
    monkeypatch.setattr(submit, "require_sbatch", lambda: None)
    monkeypatch.setattr(submit, "partitions", lambda: HERE)
    monkeypatch.setattr(submit, "submit", lambda job: pytest.fail("was submitted"))
    return ["submit", "--recipe", "r.yaml", "--ds_config", "ds.json", "--folder", "job"]


def options_of(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    return dict(line.split("=", 1) if "=" in line else (line, "") for line in lines)


def test_the_batch_script_asks_for_a_task_a_gpu_and_runs_the_snapshot(arguments, tmp_path, capsys):
    asked = ["--nodes", "2", "--gpus-per-node", "4", "--time", "8:00:00", "--qos", "low", "--cpus-per-task", "6"]
    more = ["--environment", "A=b c", "--signal-lead-s", "30", "--sbatch", "mail-type=END", "--dry-run", "seed=3"]
    assert main([*arguments, *asked, *more]) == 0
    script = capsys.readouterr().out
    options = options_of(script)
    expected = {"nodes": "2", "gpus-per-node": "4", "ntasks-per-node": "4", "time": "480", "qos": "low"}
    expected |= {"signal": "USR2@30", "requeue": "", "mail-type": "END", "job-name": "distill", "cpus-per-task": "6"}
    assert options.items() >= expected.items()
    assert "array" not in options
    assert f"export PYTHONPATH={tmp_path}/job/snapshot" in script
    assert "export A='b c'" in script
    assert "--kill-on-bad-exit=1 --export=ALL --cpus-per-task=6" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert "deepspeed" not in script.replace("ds_config", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ds.json", "r.yaml"]


def test_a_container_runs_the_ranks(arguments, capsys):
    Path("drivlm.sif").touch()
    main([*arguments, "--container", "drivlm.sif", "--dry-run"])
    assert "apptainer exec --nv --bind" in capsys.readouterr().out
    main([*arguments, "--container", "registry/drivlm:1", "--dry-run"])
    assert "--container-image=registry/drivlm:1" in capsys.readouterr().out


def test_an_array_of_points_is_throttled(arguments, capsys):
    assert main(["sweep", *arguments[1:], "--array", "seed=1,2,3", "--throttle", "2", "--dry-run"]) == 0
    assert options_of(capsys.readouterr().out)["array"] == "0-2%2"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--partition", "gpus"], "did you mean 'gpu'"),
        (["--nodes", "9", "--gpus-per-node", "16"], "--gpus-per-node: got 16"),
        (["--time", "soon"], "time: got 'soon'"),
        (["--mem-gb", "nan"], "mem_gb: got nan"),
        (["--mem-gb", "inf"], "mem_gb: got inf"),
        (["--time", "2"], "--signal-lead-s: got 120 s, expected less than the time limit of 120 s"),
        (["--site", "none.yaml"], "none.yaml: cannot be read"),
        (["--recipe", "none.yaml"], "none.yaml: cannot be read"),
        (["--ds_config", "none.json"], "none.json: no such file"),
        (["a..b=1"], "expected section.field=value"),
        (["run_dir=3"], "run_dir: got 3"),
        (["seed=[1"], "'seed=[1': the value is not YAML: expected ',' or ']'"),
        (["data.x={a: "], "the value is not YAML"),
        (["--setup", "none.sh"], "none.sh: no such file"),
        (["--container", "none.sif"], "none.sif: no such file"),
        (["--folder", "runs/x"], "is the run_dir of the recipe too"),
        (["--folder", "a:b"], "has a colon"),
        (["--name", "a/b"], "--name: got 'a/b'"),
        (["--environment", "A B=1"], "environment: got the name 'A B'"),
        (["--sbatch", "signal=B:USR1"], "sbatch: got 'signal'"),
    ],
)
def test_what_cannot_run_is_refused_with_status_2_and_nothing_left(arguments, tmp_path, capsys, more, said):
    assert main([*arguments, *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert all(line.startswith("error: ") for line in error.splitlines())
    assert not (tmp_path / "job").exists()


def test_a_run_directory_of_a_live_job_is_refused(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "has_sbatch", lambda: True)
    monkeypatch.setattr(lock, "job_states", lambda: {"17": JobState(state="PENDING", reason="", nodes="")})
    lock.acquire(tmp_path / "runs" / "x", lock.owner_here(tmp_path / "first", "17"))
    assert main(arguments) == 2
    assert f"held by job 17 from {tmp_path / 'first'}" in capsys.readouterr().err


def test_unknown_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--gpus", "3"])
    assert "--gpus" in capsys.readouterr().err


def pretended_trainer(tmp_path: Path, text: str) -> Path:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "run.py").write_text(text)
    return tmp_path


def ask(root: Path, num_ranks: int) -> str:
    return validate(root, root / "r.yaml", root / "ds.json", ["seed=1"], num_ranks=num_ranks, directory=root)


def test_the_trainer_is_asked_with_the_ranks_of_the_job(tmp_path):
    text = "import os, sys; print('error: ' + os.environ['WORLD_SIZE'], *sys.argv[1:], file=sys.stderr); sys.exit(2)"
    with pytest.raises(SlurmError, match=r"refuses this recipe:\n8 --dry-run --ds_config .* --recipe .* seed=1"):
        ask(pretended_trainer(tmp_path, text), 8)


def test_more_ranks_than_an_epoch_has_packs_are_refused(tmp_path):
    plan = "plan: 7 packs an epoch; 6 steps x 2 ranks x 2 micro batches = 24 packs, 3.43 epochs"
    root = pretended_trainer(tmp_path, f"print({plan!r})")
    assert ask(root, 3) == plan
    with pytest.raises(SlurmError, match="4 ranks x 2 micro batches = 8 packs a step.*at most 3 GPUs"):
        ask(root, 4)


def test_the_plan_is_read_as_the_trainer_prints_it():
    source = (ROOT / "trainer" / "data.py").read_text()
    assert 'f"plan: {epoch} packs an epoch; {self.recipe.steps} steps x {world_size} ranks x "' in source


def test_without_torch_the_check_is_left_to_the_job(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_check.importlib.util, "find_spec", lambda name: None)
    assert "no torch in this Python" in ask(tmp_path, 2)


def test_facts_of_a_recipe_follow_its_overrides(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"stage": "align", "run_dir": "a", "steps": 5}))
    facts = recipe_facts(tmp_path / "r.yaml", ["steps=7", "optim.lr=1e-3"], tmp_path)
    assert (facts.run_dir, facts.steps, facts.stage) == (tmp_path / "a", 7, "align")


def test_the_cluster_code_loads_neither_torch_nor_the_trainer():
    code = (
        "import sys, slurm.cli, slurm.job; "
        "print([m for m in ('torch', 'trainer', 'models', 'data_shards', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_code_that_is_checked_is_that_of_the_commit(arguments, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def code_of(commit):
        yield tmp_path / commit

    checked = []
    monkeypatch.setattr(submit, "code_of", code_of)
    monkeypatch.setattr(submit, "validate", lambda code, *_, **__: checked.append(code) or "good")
    monkeypatch.setattr(submit, "submit", lambda job: ("17",))
    assert main([*arguments, "--commit", "v1"]) == 0
    assert checked == [tmp_path / "v1"]
