"""What the batch script does before and after srun, with SLURM's commands replaced."""

import json
from pathlib import Path

import pytest

from slurm import attempts as records
from slurm import batch, lock
from slurm.batch import Place, begin, end, place_from_environment
from slurm.lock import lock_path
from slurm.spec import Work, save_spec
from slurm.typed import SlurmError
from tests.unit.slurm.samples import record, spec

PLACE = Place(job="7", index=0, nodes="n[1-2]")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What SLURM was asked for, while it says that the job runs."""
    told: list[str] = []
    monkeypatch.setattr(batch, "state_of", lambda job: "RUNNING")
    monkeypatch.setattr(batch, "requeue", lambda job: told.append(f"requeue {job}") or "")
    monkeypatch.setattr(batch, "exclude", lambda job, node, needed: told.append(f"exclude {node} of {needed}") or "")
    monkeypatch.setattr(lock, "has_sbatch", lambda: True)
    monkeypatch.setattr(lock, "job_states", dict)
    return told


def folder_of(tmp_path: Path, **changes: object) -> tuple[Path, Path]:
    run_dir, folder = tmp_path / "run", tmp_path / "job"
    folder.mkdir()
    work = Work(name="lr=1", command=("true",), run_dir=run_dir, steps=9, values={"optim.lr": "1"})
    save_spec(folder, spec(work, **changes))
    return folder, run_dir


def leave(folder: Path, number: int, *found: records.TaskRecord) -> None:
    for one in found:
        records.save_record(records.attempt_folder(folder, 0, number), one)


def save_checkpoint(run_dir: Path, step: int) -> None:
    directory = run_dir / "checkpoints" / f"step-{step:06d}"
    directory.mkdir(parents=True)
    (directory / "manifest.txt").touch()


def test_a_stop_is_noted_and_requeued_and_the_end_gives_the_run_directory_back(tmp_path, asked):
    folder, run_dir = folder_of(tmp_path)
    assert begin(folder, PLACE) == 0
    assert lock_path(run_dir).exists()
    save_checkpoint(run_dir, 4)
    leave(folder, 0, record(0, 75), record(1, 75, signals=("SIGUSR2",)))
    assert end(folder, PLACE, 0, 0).requeue
    assert asked == ["requeue 7"]
    assert begin(folder, PLACE) == 1
    leave(folder, 1, record(0, 0), record(1, 0))
    assert end(folder, PLACE, 1, 0).status == 0
    assert asked == ["requeue 7"]
    assert not lock_path(run_dir).exists()
    first, second = records.load_attempts(folder, 0).starts
    assert (first.saved_before, first.saved_after, first.requeued) == (-1, 4, True)
    assert (second.saved_before, second.outcome) == (4, records.DONE)
    assert begin(folder, PLACE) is None


def test_the_node_of_a_crash_is_kept_off_where_that_is_wanted(tmp_path, asked):
    folder, _ = folder_of(tmp_path, exclude_failed_nodes=True)
    begin(folder, PLACE)
    leave(folder, 0, record(1, -9))
    assert end(folder, PLACE, 0, 137).requeue
    assert asked == ["requeue 7", "exclude n1 of 1"]


def test_a_job_that_cannot_be_requeued_says_so(tmp_path, asked, monkeypatch):
    folder, run_dir = folder_of(tmp_path)
    monkeypatch.setattr(batch, "requeue", lambda job: "Requested operation is disabled")
    begin(folder, PLACE)
    leave(folder, 0, record(1, -9))
    assert end(folder, PLACE, 0, 137).status == 1
    (start,) = records.load_attempts(folder, 0).starts
    assert start.reason.endswith("cannot be requeued: Requested operation is disabled")
    assert not start.requeued
    assert lock_path(run_dir).exists()


def test_starts_killed_with_their_node_stop_when_nothing_new_is_saved(tmp_path, asked):
    folder, _ = folder_of(tmp_path, max_stalls=2)
    assert begin(folder, PLACE) == 0
    assert begin(folder, PLACE) == 1
    with pytest.raises(SlurmError, match="2 starts in a row saved nothing new"):
        begin(folder, PLACE)
    assert [one.outcome for one in records.load_attempts(folder, 0).starts] == [
        records.ENDED_BY_SLURM,
        records.ENDED_BY_SLURM,
        records.REFUSED,
    ]


def test_another_live_job_in_the_run_directory_refuses_the_start(tmp_path, asked):
    folder, run_dir = folder_of(tmp_path)
    owner = {"job": None, "host": "elsewhere", "pid": 1, "folder": "/other"}
    lock_path(run_dir).write_text(json.dumps(owner))
    with pytest.raises(SlurmError, match="submitted on elsewhere from /other"):
        begin(folder, PLACE)
    assert records.load_attempts(folder, 0).starts[0].outcome == records.REFUSED


def test_elements_of_an_array_are_told_apart(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "19")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert (place_from_environment().job, place_from_environment().index) == ("19", 0)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    place = place_from_environment()
    assert (place.job, place.index) == ("17_2", 2)


def test_an_element_whose_number_is_that_of_its_array_is_requeued_alone(tmp_path, asked, monkeypatch):
    for name, value in (("SLURM_JOB_ID", "17"), ("SLURM_ARRAY_JOB_ID", "17"), ("SLURM_ARRAY_TASK_ID", "0")):
        monkeypatch.setenv(name, value)
    folder, _ = folder_of(tmp_path, exclude_failed_nodes=True)
    told_state = []
    monkeypatch.setattr(batch, "state_of", lambda job: told_state.append(job) or "RUNNING")
    monkeypatch.setattr(batch, "exclude", lambda job, node, needed: asked.append(f"exclude {job}") or "")
    place = place_from_environment()
    begin(folder, place)
    leave(folder, 0, record(1, -9))
    assert end(folder, place, 0, 137).requeue
    assert (asked, told_state) == (["requeue 17_0", "exclude 17_0"], ["17_0"])


def test_records_that_a_shared_disk_shows_late_are_waited_for(tmp_path, asked, monkeypatch):
    folder, _ = folder_of(tmp_path)
    begin(folder, PLACE)
    leave(folder, 0, record(0, 0))
    monkeypatch.setattr(batch.time, "sleep", lambda seconds: leave(folder, 0, record(1, 0)))
    assert end(folder, PLACE, 0, 0).outcome == records.DONE


def test_records_of_killed_ranks_are_not_waited_for(tmp_path, asked, monkeypatch):
    folder, _ = folder_of(tmp_path)
    begin(folder, PLACE)
    leave(folder, 0, record(0, 0))
    monkeypatch.setattr(batch.time, "sleep", lambda seconds: pytest.fail("waited"))
    assert end(folder, PLACE, 0, 137).outcome == records.CRASHED
