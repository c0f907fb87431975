"""A run directory belongs to one live job; what a dead one left is taken over."""

import os
import subprocess
import sys

import pytest

from slurm import lock
from slurm.cluster import JobState
from slurm.lock import acquire, hand_over, holder, lock_path, only_here, owner_here, release
from slurm.typed import SlurmError

RUNNING = JobState(state="RUNNING", reason="None", nodes="n1")


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, JobState]:
    jobs: dict[str, JobState] = {}
    monkeypatch.setattr(lock, "job_states", lambda: jobs)
    monkeypatch.setattr(lock, "has_sbatch", lambda: True)
    return jobs


def test_a_run_directory_of_a_live_job_is_refused_with_its_owner(tmp_path, queue):
    run_dir = tmp_path / "runs" / "a"
    queue["17"] = RUNNING
    acquire(run_dir, owner_here(tmp_path / "job", "17"))
    with pytest.raises(SlurmError, match=f"held by job 17.*{tmp_path / 'job'}.*another run_dir"):
        acquire(run_dir, owner_here(tmp_path / "other", "18"))
    acquire(run_dir, owner_here(tmp_path / "job", "17"))
    assert holder(run_dir).job == "17"


def test_the_lock_of_a_job_that_left_the_queue_is_taken_over(tmp_path, queue):
    acquire(tmp_path / "a", owner_here(tmp_path, "17"))
    acquire(tmp_path / "a", owner_here(tmp_path, "18"))
    assert holder(tmp_path / "a").job == "18"
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]


def test_a_job_that_starts_before_its_submission_has_ended_finds_its_own_lock(tmp_path, queue):
    acquire(tmp_path / "a", owner_here(tmp_path / "job"))
    acquire(tmp_path / "a", owner_here(tmp_path / "job", "17"))
    assert holder(tmp_path / "a").job == "17"


def test_a_process_holds_it_until_it_has_ended(tmp_path, queue):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = lock.Owner(job=None, host=owner_here(tmp_path).host, pid=process.pid, folder="/f")
        acquire(tmp_path / "a", owner)
        with pytest.raises(SlurmError, match=f"held by process {process.pid}"):
            acquire(tmp_path / "a", owner_here(tmp_path))
    acquire(tmp_path / "a", owner_here(tmp_path))
    assert holder(tmp_path / "a").pid == os.getpid()


def test_what_another_host_holds_counts_as_alive(tmp_path, queue):
    acquire(tmp_path / "a", lock.Owner(job=None, host="elsewhere", pid=1, folder="/f"))
    with pytest.raises(SlurmError, match="submitted on elsewhere"):
        acquire(tmp_path / "a", owner_here(tmp_path))


def test_only_the_folder_that_holds_it_gives_it_back(tmp_path, queue):
    acquire(tmp_path / "a", owner_here(tmp_path / "mine"))
    hand_over(tmp_path / "a", owner_here(tmp_path / "mine", "17"))
    release(tmp_path / "a", tmp_path / "other")
    assert holder(tmp_path / "a").job == "17"
    release(tmp_path / "a", tmp_path / "mine")
    assert not lock_path(tmp_path / "a").exists()


def test_one_directory_has_one_lock_by_whatever_path_it_is_reached(tmp_path, queue):
    queue["17"] = RUNNING
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    acquire(tmp_path / "runs" / "a", owner_here(tmp_path / "job", "17"))
    for path in (tmp_path / "runs" / ".." / "runs" / "a", tmp_path / "link" / "a"):
        with pytest.raises(SlurmError, match="held by job 17"):
            acquire(path, owner_here(tmp_path / "other", "18"))


def test_a_damaged_lock_is_named_with_what_to_do(tmp_path, queue):
    lock_path(tmp_path / "a").write_text('{"job": "1')
    for look in (lambda: holder(tmp_path / "a"), lambda: acquire(tmp_path / "a", owner_here(tmp_path))):
        with pytest.raises(SlurmError, match=r"a\.lock: cannot be read: .*remove it"):
            look()


def test_a_folder_is_submitted_into_by_one_at_a_time(tmp_path, queue):
    with (
        only_here(tmp_path / "job"),
        pytest.raises(SlurmError, match=f"--folder {tmp_path / 'job'}: held by process .*another --folder"),
    ):
        acquire(tmp_path / "job", owner_here(tmp_path / "job"), what="--folder")
    assert list(tmp_path.iterdir()) == []
