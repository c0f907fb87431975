"""What `python -m slurm status` says of folders, good and bad."""

from pathlib import Path

import pytest

from slurm import attempts as records
from slurm import state, status
from slurm.attempts import Attempts
from slurm.cli import main
from slurm.cluster import JobState
from slurm.spec import Work, save_ids, save_spec
from tests.unit.slurm.samples import spec, start


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, JobState]:
    jobs: dict[str, JobState] = {}
    monkeypatch.chdir(tmp_path)
    for module in (state, status):
        monkeypatch.setattr(module, "has_sbatch", lambda: True)
        monkeypatch.setattr(module, "job_states", lambda: jobs)
    return jobs


def job(name: str, *works: Work, job_id: str = "17", starts: tuple[records.Attempt, ...] = ()) -> Path:
    folder = Path("runs") / "slurm" / name
    folder.mkdir(parents=True)
    save_spec(folder, spec(*works, name=name))
    save_ids(folder, (job_id,))
    if starts:
        records.save_attempts(folder, 0, Attempts(starts=starts))
    return folder


def test_a_damaged_or_half_made_folder_does_not_hide_the_others(queue, capsys):
    (Path("runs") / "slurm" / "a-half" / "snapshot.partial").mkdir(parents=True)
    broken = job("b-broken", starts=(start(0, records.DONE, job="17"),)) / "work-000" / "attempts.json"
    broken.write_text(broken.read_text()[:40])
    job("c-good", starts=(start(0, records.DONE, job="17"),))
    assert main(["status"]) == 2
    said = capsys.readouterr()
    assert "c-good" in said.out.splitlines()[-1]
    assert "done" in said.out.splitlines()[-1]
    assert "a-half: has no spec.json" in said.err
    assert "attempts.json: cannot be read" in said.err
    assert "without this file the starts up to now are forgotten" in said.err


def test_a_job_whose_batch_script_failed_says_so(queue, capsys):
    folder = job("a")
    main(["status", str(folder)])
    assert "failed     job 17  never started: cancelled, or a job it waited for failed" in capsys.readouterr().out
    (folder / "17_0_log.err").write_text("line 12: /gone/python: No such file or directory\n")
    main(["status", str(folder)])
    assert "never started: line 12: /gone/python: No such file or directory" in capsys.readouterr().out


def test_without_slurm_what_may_be_going_on_is_unknown(queue, monkeypatch, capsys):
    for module in (state, status):
        monkeypatch.setattr(module, "has_sbatch", lambda: False)
    job("a", starts=(start(0, records.OPEN, job="17", ended=None),))
    job("b", starts=(start(0, records.CRASHED, job="17", reason="out of luck"),))
    job("c")
    main(["status"])
    lines = capsys.readouterr().out.splitlines()[1::2]
    assert ["unknown" in line for line in lines] == [True, False, True]
    assert "failed     job 17  out of luck" in lines[1]


def test_files_of_a_command_are_counted(queue, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    for name in "ab":
        (tmp_path / "out" / name).touch()
    queue["17"] = JobState(state="RUNNING", reason="", nodes="n1")
    job("a", Work(name="w", command=("x",), progress=tmp_path / "out"))
    main(["status"])
    assert "running    job 17  2 files  on n1" in capsys.readouterr().out
