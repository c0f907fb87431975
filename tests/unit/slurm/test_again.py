"""A job or sweep is submitted once more in its folder."""

from pathlib import Path

import pytest

from slurm import batch_job
from slurm.attempts import CRASHED, DONE, Attempts, save_attempts
from slurm.cli import main
from slurm.spec import load_ids, load_spec, save_spec
from tests.unit.slurm.samples import spec, start


@pytest.fixture
def sweep(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two points submitted as job 17, the second crashed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch_job, "take_snapshot", lambda folder, commit: (folder / "snapshot").mkdir())
    Path("r.yaml").write_text("{run_dir: x, stage: align, steps: 3}")
    Path("ds.json").write_text("{}")
    files = ["--recipe", "r.yaml", "--ds_config", "ds.json", "--folder", "s", "--unchecked"]
    asked = ["--nodes", "2", "--environment", "A=1", "--throttle", "1"]
    assert main(["sweep", *files, *asked, "--array", "seed=1,2"]) == 0
    for index, outcome in enumerate((DONE, CRASHED)):
        save_attempts(tmp_path / "s", index, Attempts(starts=(start(0, outcome, job=f"17_{index}"),)))
    return tmp_path / "s"


def test_it_asks_for_what_it_asked_for_before_and_for_what_is_new(sweep, tmp_path, capsys):
    Path("r.yaml").write_text("edited")
    works = load_spec(sweep).works
    assert main(["again", str(sweep), "--time", "3:00:00", "--max-crashes", "9"]) == 0
    assert load_ids(sweep) == ("18_0", "18_1")
    script = (tmp_path / "script").read_text()
    for line in ("--time=180", "--nodes=2", "--array=0-1%1", "--job-name=sweep"):
        assert f"#SBATCH {line}\n" in script
    assert "export A=1" in script
    assert (load_spec(sweep).works, load_spec(sweep).max_crashes, load_spec(sweep).nodes) == (works, 9, 2)
    assert "edited" not in (sweep / "recipe.yaml").read_text()


def test_what_is_done_or_still_goes_on_is_not_submitted(sweep, tmp_path, capsys):
    (tmp_path / "queue").write_text("17_1|PENDING|BeginTime|\n")
    crashed = start(0, CRASHED, job="17_1", requeued=True)
    save_attempts(sweep, 1, Attempts(starts=(crashed,)))
    assert main(["again", str(sweep)]) == 2
    assert "1 of 2 wait or run (17_1, ...)" in capsys.readouterr().err
    save_attempts(sweep, 1, Attempts(starts=(crashed, start(1, DONE, job="17_1"))))
    assert main(["again", str(sweep)]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert load_ids(sweep) == ("17_0", "17_1")


def test_a_step_of_a_pipeline_and_other_folders_are_refused(programs, tmp_path, capsys):
    save_spec(tmp_path, spec())
    assert main(["again", str(tmp_path)]) == 2
    assert "call the pipeline again" in capsys.readouterr().err
    assert main(["again", str(tmp_path / "bin")]) == 2
    assert "has no spec.json" in capsys.readouterr().err
