"""Submission from end to end, with programs in the place of SLURM's that note what they were asked."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from slurm import batch_job, submit
from slurm.attempts import CRASHED, load_attempts
from slurm.batch_job import BatchJob, batch_script
from slurm.cli import main
from slurm.lock import holder, lock_path
from slurm.resources import DEFAULTS, Resources
from slurm.spec import Work, load_ids, load_spec
from tests.helpers.paths import ROOT
from tests.unit.slurm.samples import spec, write_program


@pytest.fixture
def arguments(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A submit command in a directory whose name needs quotes."""
    here = tmp_path / "my runs"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(batch_job, "take_snapshot", lambda folder, commit: (folder / "snapshot").mkdir())
    Path("r.yaml").write_text(yaml.safe_dump({"stage": "distill", "run_dir": "x", "steps": 5}))
    Path("ds.json").write_text("{}")
    return ["submit", "--recipe", "r.yaml", "--ds_config", "ds.json", "--unchecked"]


def test_a_submitted_job_has_its_files_its_id_and_its_run_directory(arguments, tmp_path, capsys):
    assert main([*arguments, "--folder", "job 1"]) == 0
    folder = Path.cwd() / "job 1"
    assert load_ids(folder) == ("17",)
    assert load_spec(folder).works[0].run_dir == Path.cwd() / "x"
    assert (folder / "recipe.yaml").read_text() == Path("r.yaml").read_text()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert holder(Path.cwd() / "x").job == "17"
    assert "submitted job 17: distill" in capsys.readouterr().out
    assert f"#SBATCH --chdir='{Path.cwd()}'" in (tmp_path / "script").read_text()


def test_a_second_job_of_the_same_second_has_a_folder_of_its_own(arguments, monkeypatch):
    monkeypatch.setattr(submit.time, "strftime", lambda form: "now")
    for run_dir in ("x", "y", "z"):
        assert main([*arguments, f"run_dir={run_dir}"]) == 0
    found = {path.name for path in Path("runs/slurm").iterdir()}
    assert found == {"distill-now", "distill-now-2", "distill-now-3"}


def test_a_folder_that_holds_something_is_left_alone(arguments, tmp_path, capsys):
    assert main([*arguments, "--folder", "job"]) == 0
    assert main([*arguments, "--folder", "job", "run_dir=y"]) == 2
    assert "holds a job already" in capsys.readouterr().err
    mode = Path.cwd().stat().st_mode
    assert main([*arguments, "--folder", ".", "run_dir=y"]) == 2
    assert "is not empty; give one that is not there yet" in capsys.readouterr().err
    assert Path.cwd().stat().st_mode == mode
    assert not lock_path(Path.cwd() / "y").exists()


def test_the_lock_of_a_queued_job_refuses_and_that_of_a_gone_one_does_not(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    (tmp_path / "queue").write_text("17|PENDING|Priority|\n")
    assert main(arguments) == 2
    assert f"run_dir {Path.cwd() / 'x'}: held by job 17" in capsys.readouterr().err
    (tmp_path / "queue").write_text("")
    assert main(arguments) == 0


def test_a_job_that_sbatch_refuses_leaves_nothing(arguments, programs, capsys):
    write_program(programs / "sbatch", "echo 'sbatch: error: Invalid account' >&2; exit 1")
    Path("empty").mkdir()
    for folder in ("job", "empty"):
        assert main([*arguments, "--folder", folder]) == 2
        assert "Invalid account" in capsys.readouterr().err
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["ds.json", "empty", "r.yaml"]
    assert list(Path("empty").iterdir()) == []


def test_variables_that_sbatch_would_prefer_to_the_script_are_kept_from_it(arguments, tmp_path, monkeypatch):
    given = {"TIMELIMIT": "1", "NO_REQUEUE": "", "ACCOUNT": "mine", "QOS": "high", "PARTITION": "debug"}
    for name, value in given.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    assert main([*arguments, "--qos", "low"]) == 0
    seen = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert {name for name in given if f"SBATCH_{name}" in seen} == {"ACCOUNT"}
    assert "#SBATCH --partition=debug" in (tmp_path / "script").read_text()
    assert os.environ["SBATCH_TIMELIMIT"] == "1"


def test_a_folder_that_cannot_be_made_is_named(arguments, capsys):
    assert main([*arguments, "--folder", "r.yaml/job"]) == 1
    assert "r.yaml" in capsys.readouterr().err


def batch_job_of(tmp_path: Path, **asked: object) -> BatchJob:
    work = Work(name="w", command=("python", "x"), run_dir=tmp_path / "kept" / "run")
    return BatchJob(
        folder=tmp_path / "chain" / "00-a",
        spec=spec(work, directory=tmp_path / "here"),
        asked=Resources(device="gpu", **asked).over(DEFAULTS),
        snapshot=tmp_path / "chain" / "snapshot",
        files={},
    )


def srun_line(script: str) -> list[str]:
    return shlex.split(next(line for line in script.splitlines() if line.startswith("srun ")))


def test_a_container_sees_all_that_the_ranks_need(tmp_path):
    asked = {"container_mounts": "/data,/scratch:/tmp/scratch", "container_python": "/opt/my env/python"}
    words = srun_line(batch_script(batch_job_of(tmp_path, container="my image.sif", **asked)))
    needed = [f"{tmp_path / name}:{tmp_path / name}" for name in ("chain/00-a", "chain/snapshot", "here", "kept")]
    mounts = [words[i + 1] for i, word in enumerate(words) if word == "--bind"]
    assert mounts == [*needed, "/data:/data", "/scratch:/tmp/scratch"]
    assert words[words.index("my image.sif") + 1] == "/opt/my env/python"
    words = srun_line(batch_script(batch_job_of(tmp_path, container="registry#drivlm:1", **asked)))
    assert f"--container-mounts={','.join(mounts)}" in words


def test_what_a_setup_file_sets_cannot_end_the_script_before_it_has_judged_the_start(tmp_path):
    script = batch_script(batch_job_of(tmp_path, setup=tmp_path / "a b.sh"))
    lines = script.splitlines()
    at = lines.index(f"source '{tmp_path}/a b.sh'")
    assert lines[at + 1 : at + 3] == ["set +eu", "trap : TERM USR1 USR2"]
    assert "--export=ALL" in srun_line(script)


def test_options_without_a_value_and_kinds_of_gpus(tmp_path):
    script = batch_script(batch_job_of(tmp_path, gpu_type="a100", sbatch={"exclusive": "true", "overcommit": "false"}))
    assert "#SBATCH --exclusive\n" in script
    assert "overcommit" not in script
    assert "#SBATCH --gpus-per-node=a100:1\n" in script


SRUN = """
while [ "${1#--}" != "$1" ]; do
    case "$1" in --output | --error) shift 2 ;; *) shift ;; esac
done
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0
exec "$@"
"""
SCONTROL = """
echo "$*" >> "$DRIVLM_TEST/asked"
echo "JobState=RUNNING Reason=None"
"""


def test_a_start_is_judged_whatever_a_setup_file_sets(programs, tmp_path, monkeypatch):
    write_program(programs / "srun", SRUN)
    write_program(programs / "scontrol", SCONTROL)
    (tmp_path / "set up.sh").write_text("set -euo pipefail\nexport GREETING='a  b'\n")
    work = Work(name="w", command=("bash", "-c", 'echo "$GREETING $MORE"; exit 3'))
    job = BatchJob(
        folder=tmp_path / "my job",
        spec=spec(work, directory=tmp_path, tasks_per_node=1, max_crashes=1),
        asked=Resources(device="cpu", setup=tmp_path / "set up.sh", environment={"MORE": "c'd"}).over(DEFAULTS),
        snapshot=ROOT,
        files={},
    )
    assert batch_job.submit(job) == ("17",)
    for name, value in (("SLURM_JOB_ID", "17"), ("SLURM_JOB_NODELIST", "localhost")):
        monkeypatch.setenv(name, value)
    for _ in range(2):
        done = subprocess.run(["bash", tmp_path / "script"], capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
    first, second = load_attempts(job.folder, 0).starts
    assert (first.outcome, first.requeued, second.requeued) == (CRASHED, True, False)
    assert first.reason.endswith("exit status 3: a  b c'd")
    assert second.reason.endswith("not requeued: crash 2 of at most 1")
    assert (tmp_path / "asked").read_text().splitlines().count("requeue 17") == 1
