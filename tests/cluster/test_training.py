"""Training on two nodes: the same bits as under the deepspeed launcher, however often the job is disturbed."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slurm.attempts import CRASHED, DONE, STOPPED
from slurm.lock import lock_path
from tests.cluster import jobs
from tests.helpers.dist import launcher, losses
from tests.helpers.stages import write_recipe

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]

STEPS = 12


def recipe(world: Path, run_dir: Path, **changes: object) -> Path:
    settings = {"steps": STEPS, "checkpoint_every": 3, "model": {"drop_path": 0.3}, "batch": {"micro_batches": 2}}
    return write_recipe(world, "distill", run_dir, **(settings | changes))


@pytest.fixture(scope="module")
def launched(world: Path) -> Path:
    """The undisturbed run of two ranks under the deepspeed launcher."""
    run_dir = world / "launched"
    with launcher(["--recipe", str(recipe(world, run_dir))]) as process:
        _, said = process.communicate(timeout=jobs.TIMEOUT_S)
    assert process.returncode == 0, said
    return run_dir


def test_two_nodes_train_to_the_weights_of_the_deepspeed_launcher(world, launched):
    run_dir, folder = world / "nodes", world / "job-nodes"
    jobs.submit(recipe(world, run_dir), folder)
    (attempts,) = jobs.wait_for_end(folder)
    assert [one.outcome for one in attempts.starts] == [DONE], jobs.everything_said(folder)
    assert jobs.weights(run_dir) == jobs.weights(launched)
    assert losses(run_dir) == losses(launched)
    assert not lock_path(run_dir).exists()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f"step {STEPS}/{STEPS}" in jobs.slurm("status", str(folder)).stdout


def test_a_job_disturbed_in_every_way_ends_with_the_weights_of_the_undisturbed_one(world, launched):
    run_dir, folder = world / "disturbed", world / "job-disturbed"
    job = jobs.submit(recipe(world, run_dir), folder, "--max-crashes", "9", "--max-stalls", "9")
    disturbances: list[Callable[[], None]] = [
        lambda: jobs.scancel(["--signal=USR2", job]),
        lambda: jobs.ranks_of(folder, 1)[0].kill(),
        lambda: jobs.scontrol("requeue", job),
        lambda: jobs.tasks_of(folder, 0)[0].kill(),
        lambda: jobs.step_daemons(job)[-1].kill(),
    ]
    moments = np.random.default_rng(0).uniform(0.0, 0.5, len(disturbances))
    for number, (disturb, moment) in enumerate(zip(disturbances, moments, strict=True)):
        _wait_for_a_step_of_start(folder, run_dir, number)
        time.sleep(moment)
        disturb()
    (attempts,) = jobs.wait_for_end(folder)
    outcomes = [one.outcome for one in attempts.starts]
    assert outcomes[:2] == [STOPPED, CRASHED], jobs.everything_said(folder)
    assert outcomes[3] == CRASHED
    assert outcomes[-1] == DONE
    assert len(outcomes) in (5, 6), "ranks can outlive the daemon of their step, and end the run"
    assert "signal 9" in attempts.starts[1].reason
    assert jobs.weights(run_dir) == jobs.weights(launched)
    assert losses(run_dir) == losses(launched)


def _wait_for_a_step_of_start(folder: Path, run_dir: Path, number: int) -> None:
    """A start first cuts the metrics back to its checkpoint: a step is its own once it was written after it began."""
    log = folder / "work-000" / f"attempt-{number:03d}" / "task-0000.log"
    jobs.wait_until(lambda: log.is_file() and "step/s]" in log.read_text(), f"start {number}", folder)
    seen = jobs.last_step(run_dir)
    jobs.wait_until(lambda: jobs.last_step(run_dir) > seen, f"step of start {number}", folder)
