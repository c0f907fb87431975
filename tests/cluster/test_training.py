"""Training on two nodes: the same bits as under the deepspeed launcher, however often the job is disturbed."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from slurm.attempts import CRASHED, DONE, ENDED_BY_SLURM, STOPPED, load_attempts
from slurm.lock import lock_path
from tests.cluster import jobs
from tests.helpers.dist import launcher, losses
from tests.helpers.stages import write_recipe

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

STEPS = 12
DISTURBED_STEPS = 120
LIMIT = "60"


def recipe(world: Path, run_dir: Path, **changes: object) -> Path:
    settings = {"steps": STEPS, "checkpoint_every": 3, "model": {"drop_path": 0.3}, "batch": {"micro_batches": 2}}
    return write_recipe(world, "distill", run_dir, **(settings | changes))


def launch(world: Path, run_dir: Path, **changes: object) -> Path:
    """An undisturbed run of two ranks under the deepspeed launcher."""
    with launcher(["--recipe", str(recipe(world, run_dir, **changes))]) as process:
        _, said = process.communicate(timeout=jobs.TIMEOUT_S)
    assert process.returncode == 0, said
    return run_dir


def test_two_nodes_train_to_the_weights_of_the_deepspeed_launcher(world):
    launched = launch(world, world / "launched")
    run_dir, folder = world / "nodes", world / "job-nodes"
    jobs.submit(recipe(world, run_dir), folder)
    (attempts,) = jobs.wait_for_end(folder)
    assert [one.outcome for one in attempts.starts] == [DONE], jobs.everything_said(folder)
    assert jobs.weights(run_dir) == jobs.weights(launched)
    assert losses(run_dir) == losses(launched)
    jobs.wait_until(lambda: not lock_path(run_dir).exists(), "end of the lock", folder)  # it outlives the last record
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f"step {STEPS}/{STEPS}" in jobs.slurm("status", str(folder)).stdout


def test_a_job_disturbed_ten_times_ends_with_the_weights_of_the_undisturbed_one(world):
    launched = launch(world, world / "undisturbed", steps=DISTURBED_STEPS)
    run_dir, folder = world / "disturbed", world / "job-disturbed"
    limits = ("--max-crashes", "19", "--max-stalls", "19")
    job = jobs.submit(recipe(world, run_dir, steps=DISTURBED_STEPS), folder, *limits)
    disturbances: dict[str, Callable[[], None]] = {
        "signal": lambda: jobs.scancel(["--signal=USR2", job]),
        "limit": lambda: _come_to_the_time_limit(job, folder),
        "requeue": lambda: jobs.scontrol("requeue", job),
        "rank": lambda: jobs.ranks_of(folder, 1)[0].kill(),
        "task": lambda: jobs.tasks_of(folder, 0)[0].kill(),
        "daemon": lambda: jobs.step_daemons(job)[-1].kill(),
    }
    rng = np.random.default_rng(0)
    order = [str(name) for name in rng.permutation(["signal", "limit", "requeue", "rank"] * 2 + ["task"])]
    order.append("daemon")  # the last one: ranks can outlive the daemon of their step, and end the run
    for number, name in enumerate(order):
        _wait_for_a_step_of_start(folder, run_dir, number)
        time.sleep(rng.uniform(0.0, 0.5))
        disturbances[name]()
    (attempts,) = jobs.wait_for_end(folder)
    outcomes = [one.outcome for one in attempts.starts]
    expected = {"signal": {STOPPED}, "limit": {STOPPED, ENDED_BY_SLURM}, "rank": {CRASHED}, "task": {CRASHED}}
    for name, one in zip(order, attempts.starts, strict=False):
        assert one.outcome in expected.get(name, {one.outcome}), jobs.everything_said(folder)
        assert name != "rank" or "signal 9" in one.reason
    assert outcomes[-1] == DONE
    assert len(outcomes) in (len(order), len(order) + 1)
    assert jobs.weights(run_dir) == jobs.weights(launched)
    assert losses(run_dir) == losses(launched)


def _come_to_the_time_limit(job: str, folder: Path) -> None:
    """SLURM looks at limits twice a minute; so that the run does not end before, one rank holds it up until then.

    SLURM may have woken or ended that rank itself. The limit is raised again before the next start could come to it.
    """
    start = len(load_attempts(folder, 0).starts) - 1

    def ended() -> bool:
        return load_attempts(folder, 0).starts[start].ended is not None

    rank, held_until = jobs.ranks_of(folder, 1)[0], time.monotonic() + 35
    jobs.scontrol("update", f"JobId={job}", "TimeLimit=2")
    with contextlib.suppress(psutil.NoSuchProcess):
        rank.suspend()
        jobs.wait_until(lambda: ended() or time.monotonic() > held_until, "end of the hold", folder)
        rank.resume()
    jobs.wait_until(ended, "end at the limit", folder)
    jobs.scontrol("update", f"JobId={job}", f"TimeLimit={LIMIT}")


def _wait_for_a_step_of_start(folder: Path, run_dir: Path, number: int) -> None:
    """A start first cuts the metrics back to its checkpoint: a step is its own once it was written after it began."""
    log = folder / "work-000" / f"attempt-{number:03d}" / "task-0000.log"
    jobs.wait_until(lambda: log.is_file() and "step/s]" in log.read_text(), f"start {number}", folder)
    seen = jobs.last_step(run_dir)
    jobs.wait_until(lambda: jobs.last_step(run_dir) > seen, f"step of start {number}", folder)
