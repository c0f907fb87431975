"""Records of what the ranks of a start met in, a decision out: done, requeue, or stop, and why.

`work-000/attempts.json` keeps every start of one element; `work-000/attempt-002/` the log and record of each rank.
"""

import signal
from dataclasses import dataclass, replace
from pathlib import Path

from slurm.spec import JobSpec, work_folder
from slurm.typed import SlurmError, from_json, to_json, write_whole

ATTEMPTS_FILE = "attempts.json"
STOPPED_STATUS = 75
USAGE_STATUS = 2

DONE = "done"
STOPPED = "stopped"
CRASHED = "crashed"
REFUSED = "refused"
ENDED_BY_SLURM = "ended by SLURM"
OPEN = "open"


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """How one rank of a start ended.

    Attributes:
        rank, host: of it.
        status: exit status of its command; negative for a signal.
        signals: what this rank was told.
        reason: its last words, for a failure.
        ended: seconds since the epoch.
        blames_node: whether a failure may be its node's; not where it was ended for the silence of all ranks.
    """

    rank: int
    host: str
    status: int
    signals: tuple[str, ...] = ()
    reason: str = ""
    ended: float = 0.0
    blames_node: bool = True


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of an element.

    Attributes:
        number: from 0 on.
        job: SLURM's id.
        nodes: where it ran.
        began, ended: seconds since the epoch; `ended` is None for one that is running, or was killed with its node.
        saved_before, saved_after: see `slurm.progress.saved`.
        outcome: one of the constants of this module.
        reason: why it ended so.
        bad_node: on which a crash began.
        requeued: whether it goes on.
    """

    number: int
    job: str
    nodes: str
    began: float
    saved_before: int
    ended: float | None = None
    saved_after: int = -1
    outcome: str = OPEN
    reason: str = ""
    bad_node: str = ""
    requeued: bool = False


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """All starts of an element."""

    starts: tuple[Attempt, ...] = ()

    def of(self, job: str) -> "Attempts":
        """The starts of one submission: SLURM keeps the id when it requeues."""
        return Attempts(starts=tuple(one for one in self.starts if one.job == job))

    @property
    def done(self) -> bool:
        """Whether any start reached the end."""
        return any(one.outcome == DONE for one in self.starts)

    @property
    def crashes(self) -> int:
        """How many starts crashed."""
        return sum(1 for attempt in self.starts if attempt.outcome == CRASHED)

    @property
    def stalls(self) -> int:
        """How many starts in a row, up to now, ended without anything new saved."""
        count = 0
        for attempt in reversed(self.starts):
            if attempt.outcome == OPEN or attempt.saved_after > attempt.saved_before:
                break
            count += 1
        return count


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is to be done after a start.

    Attributes:
        outcome, reason, bad_node: see `Attempt`.
        requeue: whether to put the job back into the queue.
        status: exit status of the batch script where it is not requeued.
    """

    outcome: str
    reason: str = ""
    bad_node: str = ""
    requeue: bool = False
    status: int = 1


def load_attempts(folder: Path, index: int) -> Attempts:
    """The starts of an element up to now.

    Raises:
        SlurmError: the file is damaged.
    """
    path = work_folder(folder, index) / ATTEMPTS_FILE
    if not path.is_file():
        return Attempts()
    try:
        return from_json(Attempts, path)
    except SlurmError as error:
        raise SlurmError(f"{error}; without this file the starts up to now are forgotten, and nothing else") from error


def save_attempts(folder: Path, index: int, attempts: Attempts) -> None:
    """Write them, whole or not at all."""
    work_folder(folder, index).mkdir(parents=True, exist_ok=True)
    write_whole(work_folder(folder, index) / ATTEMPTS_FILE, to_json(attempts))


def attempt_folder(folder: Path, index: int, number: int) -> Path:
    """Logs and records of the ranks of one start."""
    return work_folder(folder, index) / f"attempt-{number:03d}"


def save_record(directory: Path, record: TaskRecord) -> None:
    """Write the record of one rank."""
    write_whole(directory / f"task-{record.rank:04d}.json", to_json(record))


def load_records(directory: Path) -> list[TaskRecord]:
    """The records of the ranks that left one."""
    return [from_json(TaskRecord, path) for path in sorted(directory.glob("task-*.json"))]


def close_open(attempts: Attempts, saved_now: int, now: float) -> Attempts:
    """Starts that were never closed were killed with their node or their batch script: say so."""
    starts = tuple(
        replace(
            one,
            ended=now,
            saved_after=saved_now,
            outcome=ENDED_BY_SLURM,
            reason="killed with its batch script: the node failed, or SLURM did not wait",
            requeued=True,
        )
        if one.outcome == OPEN
        else one
        for one in attempts.starts
    )
    return Attempts(starts=starts)


def judge(spec: JobSpec, records: list[TaskRecord], srun_status: int, slurm_state: str) -> Decision:
    """What one start came to, apart from the limits on crashes and stalls.

    Args:
        spec: of the job.
        records: of the ranks that left one.
        srun_status: exit status of srun.
        slurm_state: state of the job; anything but RUNNING means that SLURM itself is ending it.
    """
    num_tasks = spec.nodes * spec.tasks_per_node
    failed = [one for one in records if one.status not in (0, STOPPED_STATUS)]
    if not failed and len(records) == num_tasks and all(one.status == 0 for one in records):
        return Decision(outcome=DONE, status=0)
    if slurm_state not in ("RUNNING", "TIMEOUT"):
        return Decision(
            outcome=ENDED_BY_SLURM, reason=f"SLURM ended it ({slurm_state or 'unknown'}): requeued or cancelled"
        )
    refused = [one for one in failed if one.status == USAGE_STATUS]
    if refused:
        return Decision(outcome=REFUSED, reason=_say(refused[0]), status=USAGE_STATUS)
    if failed:
        first = min(failed, key=lambda one: (one.status > 0, one.ended))
        return Decision(
            outcome=CRASHED, reason=_say(first), bad_node=first.host if first.blames_node else "", requeue=True
        )
    if len(records) < num_tasks:
        missing = sorted(set(range(num_tasks)) - {one.rank for one in records})
        ranks = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        late = "killed at the time limit before it had saved, give more --signal-lead-s"
        why = late if slurm_state == "TIMEOUT" else "killed, or never started"
        return Decision(
            outcome=CRASHED,
            reason=f"rank {ranks} left no record: {why} (srun: {srun_status})",
            requeue=True,
        )
    told = sorted({name for one in records for name in one.signals})
    return Decision(
        outcome=STOPPED, reason=f"saved on {', '.join(told) or 'its own'}", requeue=True, status=STOPPED_STATUS
    )


def limit(spec: JobSpec, attempts: Attempts, decision: Decision) -> Decision:
    """The same decision, or a refusal to requeue once more; `attempts`: this submission's, the start that is
    decided on among them."""
    if not decision.requeue:
        return decision
    if decision.outcome == CRASHED and attempts.crashes > spec.max_crashes:
        return replace(
            decision,
            requeue=False,
            reason=f"{decision.reason}; not requeued: crash {attempts.crashes} of at most {spec.max_crashes}",
        )
    if attempts.stalls >= spec.max_stalls:
        return replace(
            decision,
            requeue=False,
            status=1,
            reason=f"{decision.reason}; not requeued: {attempts.stalls} starts in a row saved nothing new",
        )
    return decision


def _say(record: TaskRecord) -> str:
    how = f"signal {-record.status}" if record.status < 0 else f"exit status {record.status}"
    how += " (killed, often for lack of memory)" if record.status == -signal.SIGKILL and record.blames_node else ""
    return f"rank {record.rank} on {record.host}: {how}" + (f": {record.reason}" if record.reason else "")
