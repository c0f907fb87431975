"""A job folder in, the state of each of its elements out: what the queue says, over what the attempts say."""

from dataclasses import dataclass
from pathlib import Path

from slurm import attempts as records
from slurm.cluster import JobState, has_sbatch, job_states
from slurm.job import last_words
from slurm.spec import JobSpec, load_ids

DONE_STATE, FAILED_STATE, UNKNOWN_STATE = "done", "failed", "unknown"
WAITING_STATE, RUNNING_STATE = OPEN_STATES = "waiting", "running"


@dataclass(frozen=True, kw_only=True)
class ElementState:
    """Of one element.

    Attributes:
        state: waiting, running, done, failed, cancelled, not submitted, unknown (no SLURM here to ask).
        reason: why it waits or failed.
        job: SLURM's id; empty before submission.
        starts: how often it was started.
        crashes: how many of those crashed.
    """

    state: str
    reason: str
    job: str
    starts: int
    crashes: int


def element_states(folder: Path, spec: JobSpec, queue: dict[str, JobState] | None = None) -> list[ElementState]:
    """States of all elements.

    Args:
        queue: what `job_states` gave; asked for where None and some element may still be in it. Without SLURM here the
            attempts alone speak, and what may be going on is unknown.
    """
    ids = load_ids(folder)
    if queue is None:
        open_ones = [i for i in range(len(ids)) if not _is_final(records.load_attempts(folder, i), ids[i])]
        queue = job_states() if open_ones and has_sbatch() else None
    return [_element(folder, i, ids[i] if i < len(ids) else "", queue) for i in range(len(spec.works))]


def _is_final(attempts: records.Attempts, job: str) -> bool:
    starts = attempts.of(job).starts
    last = starts[-1] if starts else None
    ended = last is not None and last.ended is not None and not last.requeued
    return attempts.done or (last is not None and ended and last.outcome != records.ENDED_BY_SLURM)


def _element(folder: Path, index: int, job: str, queue: dict[str, JobState] | None) -> ElementState:
    attempts = records.load_attempts(folder, index)
    if attempts.done:
        return ElementState(state=DONE_STATE, reason="", job=job, starts=len(attempts.starts), crashes=attempts.crashes)
    final, attempts = _is_final(attempts, job), attempts.of(job)
    if queue is None and job and not final:
        state, reason = UNKNOWN_STATE, "no SLURM here to ask"
    else:
        state, reason = _state(attempts, (queue or {}).get(job), submitted=bool(job))
    if state == FAILED_STATE and not attempts.starts:
        reason = f"never started: {_batch_words(folder, job) or 'cancelled, or a job it waited for failed'}"
    return ElementState(state=state, reason=reason, job=job, starts=len(attempts.starts), crashes=attempts.crashes)


def _state(attempts: records.Attempts, queued: JobState | None, *, submitted: bool) -> tuple[str, str]:
    last = attempts.starts[-1] if attempts.starts else None
    if not submitted:
        return "not submitted", ""
    before = f"; before: {last.reason}" if last is not None and last.reason else ""
    if queued is not None and queued.state == "PENDING":
        return WAITING_STATE, queued.reason + before
    if queued is not None and not (last is not None and last.ended is not None and not last.requeued):
        return RUNNING_STATE, f"on {queued.nodes}"
    if last is None:
        return FAILED_STATE, "never started"
    if last.outcome == records.OPEN:
        return FAILED_STATE, "ended without a word: cancelled, or its node failed"
    if last.outcome == records.ENDED_BY_SLURM:
        return "cancelled", last.reason
    return FAILED_STATE, last.reason


def _batch_words(folder: Path, job: str) -> str:
    """What the batch script said before it came to note its start."""
    log = folder / f"{job}_0_log.err"
    return last_words(log) if log.is_file() else ""
