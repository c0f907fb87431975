"""What the batch script calls on the job's first node: `begin` before srun, `end` after it, which requeues or not.

It runs beside the ranks, not in one of them: a killed rank, or a killed srun, cannot keep the job from being requeued.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slurm import attempts as records
from slurm.attempts import Attempt, Attempts, Decision
from slurm.cluster import exclude, requeue, state_of
from slurm.hparams import write_end
from slurm.lock import acquire, owner_here, release
from slurm.progress import saved
from slurm.spec import JobSpec, Work, load_spec
from slurm.typed import SlurmError

ATTEMPT_VARIABLE = "DRIVLM_ATTEMPT"
NOTHING_LEFT = "done"
SETTLE_S = 60.0
"""How long records are waited for that have to be there."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """This element of the job, by SLURM's environment.

    Attributes:
        job: `17`, or `17_3` for an element of an array: SLURM_JOB_ID of one of them is the number of the whole array.
        index: of the element.
        nodes: SLURM's list of them.
    """

    job: str
    index: int
    nodes: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Begin or end one start; prints the number of the start at its beginning, or `done`."""
    parser = argparse.ArgumentParser(prog="python -m slurm.batch", description=__doc__)
    parser.add_argument("action", choices=("begin", "end"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--status", type=int, default=0, help="exit status of srun")
    options = parser.parse_args(arguments)
    place = place_from_environment()
    if options.action == "begin":
        try:
            number = begin(options.folder, place)
        except SlurmError as error:
            print(f"error: {error}", file=sys.stderr)
            return records.USAGE_STATUS
        print(NOTHING_LEFT if number is None else number)
        return 0
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    decision = end(options.folder, place, int(os.environ[ATTEMPT_VARIABLE]), options.status)
    print(f"{decision.outcome}: {decision.reason or 'all ranks'}; {'requeued' if decision.requeue else 'not requeued'}")
    return decision.status


def place_from_environment() -> Place:
    """Which element of which job this batch script is."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    job = f"{array}_{index}" if array else os.environ["SLURM_JOB_ID"]
    return Place(job=job, index=index, nodes=os.environ.get("SLURM_JOB_NODELIST", ""))


def begin(folder: Path, place: Place) -> int | None:
    """Note a start, and take the run directory.

    Returns:
        number of the start; None where an earlier start reached the end.

    Raises:
        SlurmError: earlier starts saved nothing new, or another job holds the run directory.
    """
    spec = load_spec(folder)
    work = spec.works[place.index]
    now, saved_now = time.time(), saved(work)
    earlier = records.close_open(records.load_attempts(folder, place.index), saved_now, now)
    if earlier.done:
        return None
    start = Attempt(number=len(earlier.starts), job=place.job, nodes=place.nodes, began=now, saved_before=saved_now)
    try:
        if earlier.of(place.job).stalls >= spec.max_stalls:
            raise SlurmError(f"not started again: {spec.max_stalls} starts in a row saved nothing new")
        if work.run_dir is not None:
            acquire(work.run_dir, owner_here(folder, place.job))
    except SlurmError as error:
        start = replace(start, ended=now, saved_after=saved_now, outcome=records.REFUSED, reason=str(error))
        records.save_attempts(folder, place.index, Attempts(starts=(*earlier.starts, start)))
        raise
    records.attempt_folder(folder, place.index, start.number).mkdir(parents=True, exist_ok=True)
    records.save_attempts(folder, place.index, Attempts(starts=(*earlier.starts, start)))
    return start.number


def end(folder: Path, place: Place, number: int, srun_status: int) -> Decision:
    """Judge a start, note it, and put the job back into the queue where it is to go on."""
    spec = load_spec(folder)
    work = spec.works[place.index]
    found = _records(records.attempt_folder(folder, place.index, number), spec.nodes * spec.tasks_per_node, srun_status)
    decision = records.judge(spec, found, srun_status, state_of(place.job))
    attempts = _noted(folder, place.index, number, decision, saved(work))
    decision = records.limit(spec, attempts.of(place.job), decision)
    if decision.requeue:
        return _requeue(spec, folder, place, number, decision, saved(work))
    _noted(folder, place.index, number, decision, saved(work))
    if decision.outcome != records.ENDED_BY_SLURM:
        _close(work, folder, decision)
    return decision


def _records(directory: Path, num_tasks: int, srun_status: int) -> list[records.TaskRecord]:
    """What the ranks left. Where srun says that all ended well each has left something: a shared disk may show what was
    written on other nodes some seconds late."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        found = records.load_records(directory)
        if len(found) >= num_tasks or srun_status != 0 or time.monotonic() > deadline:
            return found
        time.sleep(SETTLE_S / 60)


def _requeue(spec: JobSpec, folder: Path, place: Place, number: int, decision: Decision, saved_now: int) -> Decision:
    """Everything is written before SLURM is asked: it ends this script when it requeues the job."""
    _noted(folder, place.index, number, decision, saved_now)
    problem = requeue(place.job)
    if problem:
        decision = replace(
            decision, requeue=False, status=1, reason=f"{decision.reason}; cannot be requeued: {problem}"
        )
        _noted(folder, place.index, number, decision, saved_now)
    elif spec.exclude_failed_nodes and decision.bad_node:
        problem = exclude(place.job, decision.bad_node, spec.nodes)
        if problem:
            print(f"warning: {decision.bad_node} is not kept off: {problem}", file=sys.stderr)
    return decision


def _noted(folder: Path, index: int, number: int, decision: Decision, saved_now: int) -> Attempts:
    attempts = records.load_attempts(folder, index)
    starts = list(attempts.starts)
    starts[number] = replace(
        starts[number],
        ended=time.time(),
        saved_after=saved_now,
        outcome=decision.outcome,
        reason=decision.reason,
        bad_node=decision.bad_node,
        requeued=decision.requeue,
    )
    attempts = Attempts(starts=tuple(starts))
    records.save_attempts(folder, index, attempts)
    return attempts


def _close(work: Work, folder: Path, decision: Decision) -> None:
    if work.run_dir is not None:
        if work.values:
            write_end(work.run_dir / "tensorboard", succeeded=decision.outcome == records.DONE)
        release(work.run_dir, folder)


if __name__ == "__main__":
    sys.exit(main())
