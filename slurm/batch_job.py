"""A job's spec and resources in, a batch script or submitted SLURM jobs out, through submitit."""

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import _make_sbatch_string

from slurm.batch import ATTEMPT_VARIABLE, NOTHING_LEFT
from slurm.job import Task
from slurm.lock import acquire, hand_over, owner_here, release
from slurm.resources import Resources, minutes
from slurm.snapshot import SNAPSHOT, take_snapshot
from slurm.spec import JobSpec, save_ids, save_spec
from slurm.typed import SlurmError


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """A job, ready to be submitted.

    Attributes:
        folder: of the job; made by `submit`.
        spec: what runs.
        asked: complete resources, device gpu or cpu.
        commit: of the code; None for the working tree.
        snapshot: one that was taken already, for the jobs of a pipeline.
        files: copied into the folder under these names, so that later edits do not matter.
        throttle: elements that run at the same time; None for all.
        after: SLURM's ids of jobs that have to end well before.
        after_each: SLURM's ids of arrays of as many elements, each of which has to end well before the one here.
    """

    folder: Path
    spec: JobSpec
    asked: Resources
    commit: str | None = None
    snapshot: Path | None = None
    files: Mapping[str, Path]
    throttle: int | None = None
    after: Sequence[str] = ()
    after_each: Sequence[str] = ()

    @property
    def code(self) -> Path:
        """Where the code of the job lies."""
        return self.snapshot or self.folder / SNAPSHOT


def batch_script(job: BatchJob) -> str:
    """The script that sbatch gets."""
    count = len(job.spec.works)
    return _make_sbatch_string(
        command=f"{_python(job)} -u -m submitit.core._submit {shlex.quote(str(job.folder))}",
        folder=job.folder,
        map_count=count if count > 1 else None,
        **_parameters(job),
    )


def submit(job: BatchJob) -> tuple[str, ...]:
    """Copy code and files, take the run directories, submit.

    Returns:
        SLURM's ids of the elements.

    Raises:
        SlurmError: the folder is in use, a run directory is held by another job, or sbatch refuses.
    """
    if (job.folder / "spec.json").exists():
        raise SlurmError(f"--folder {job.folder}: holds a job already; give another, or remove it")
    made = not job.folder.exists()
    job.folder.mkdir(parents=True, exist_ok=True)
    job.folder.chmod(0o700)
    taken: list[Path] = []
    try:
        for name, source in job.files.items():
            shutil.copyfile(source, job.folder / name)
        if job.snapshot is None:
            take_snapshot(job.folder, job.commit)
        ids = _submit_with_locks(job, taken)
    except BaseException:
        for run_dir in taken:
            release(run_dir, job.folder)
        if made:
            shutil.rmtree(job.folder)
        raise
    return ids


def _submit_with_locks(job: BatchJob, taken: list[Path]) -> tuple[str, ...]:
    run_dirs = [work.run_dir for work in job.spec.works]
    for run_dir in filter(None, run_dirs):
        acquire(run_dir, owner_here(job.folder))
        taken.append(run_dir)
    save_spec(job.folder, job.spec)
    ids = resubmit(job)
    for held, job_id in zip(run_dirs, ids, strict=True):
        if held is not None:
            hand_over(held, owner_here(job.folder, job_id))
    return ids


def resubmit(job: BatchJob) -> tuple[str, ...]:
    """Submit a job whose folder is ready; a failed one starts anew from its checkpoints.

    Raises:
        SlurmError: sbatch refuses.
    """
    executor = SlurmExecutor(folder=job.folder, python=_python(job))
    executor.update_parameters(**_parameters(job))
    tasks = [Task(folder=job.folder, index=i) for i in range(len(job.spec.works))]
    try:
        with _outside_any_job():
            jobs = executor.submit_array(tasks) if len(tasks) > 1 else [executor.submit(tasks[0])]
    except (FailedJobError, FailedSubmissionError) as error:
        raise SlurmError(f"sbatch refuses the job: {str(error).strip()}") from error
    ids = tuple(one.job_id for one in jobs)
    save_ids(job.folder, ids)
    return ids


def _parameters(job: BatchJob) -> dict[str, Any]:
    asked, spec = job.asked, job.spec
    extra: dict[str, Any] = {"requeue": True, "chdir": str(spec.directory), "kill-on-invalid-dep": "yes"}
    plain: dict[str, Any] = {
        "job_name": spec.name,
        "time": minutes(asked.time or "60"),
        "nodes": spec.nodes,
        "ntasks_per_node": spec.tasks_per_node,
        "cpus_per_task": asked.cpus_per_task,
        "gpus_per_node": asked.gpus_per_node if asked.device == "gpu" else None,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "exclude": asked.exclude,
        "mem": None if asked.mem_gb is None else f"{round(asked.mem_gb * 1024)}M",
        "dependency": _dependency(job),
        "array_parallelism": job.throttle,
        "signal_delay_s": asked.signal_lead_s,
    }
    return {
        **{name: value for name, value in plain.items() if value is not None},
        "setup": _setup(job),
        "teardown": _teardown(job),
        "srun_args": _srun_arguments(job),
        "additional_parameters": {**extra, **(asked.sbatch or {})},
    }


def _dependency(job: BatchJob) -> str | None:
    kinds = {"afterok": job.after, "aftercorr": job.after_each}
    return ",".join(f"{kind}:{':'.join(ids)}" for kind, ids in kinds.items() if ids) or None


def _setup(job: BatchJob) -> list[str]:
    """Lines before srun. The traps keep bash, which has to judge the start, alive through SLURM's signals."""
    lines = ["trap : TERM USR1 USR2"]
    if job.asked.setup is not None:
        lines.append(f"source {shlex.quote(str(job.asked.setup))}")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in (job.asked.environment or {}).items()]
    lines += [
        f"export PYTHONPATH={shlex.quote(str(job.code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"{ATTEMPT_VARIABLE}=$({_hook(job, 'begin')}) || exit $?",
        f'[[ "${ATTEMPT_VARIABLE}" != {NOTHING_LEFT} ]] || exit 0',
        f"export {ATTEMPT_VARIABLE}",
    ]
    return lines


def _teardown(job: BatchJob) -> list[str]:
    return [f"{_hook(job, 'end')} --status $?", "exit $?"]


def _hook(job: BatchJob, action: str) -> str:
    return f"{shlex.quote(sys.executable)} -m slurm.batch {action} --folder {shlex.quote(str(job.folder))}"


def _srun_arguments(job: BatchJob) -> list[str]:
    """Since SLURM 22.05 srun does not take the cores of a task from sbatch; nor does it end ranks for a crashed one."""
    arguments = ["--kill-on-bad-exit=1"]
    if job.asked.cpus_per_task:
        arguments.append(f"--cpus-per-task={job.asked.cpus_per_task}")
    if job.asked.container and not _is_apptainer(job.asked.container):
        mounts = ",".join(f"{path}:{path}" for path in (job.spec.directory, job.folder))
        arguments += [f"--container-image={job.asked.container}", f"--container-mounts={mounts}"]
    return arguments


def _python(job: BatchJob) -> str:
    """How a rank's Python is started."""
    image, inside = job.asked.container, job.asked.container_python or "python3"
    if image is None:
        return shlex.quote(sys.executable)
    if not _is_apptainer(image):
        return inside
    gpus = " --nv" if job.asked.device == "gpu" else ""
    binds = f"--bind {shlex.quote(str(job.spec.directory))} --bind {shlex.quote(str(job.folder))}"
    return f"apptainer exec{gpus} {binds} {shlex.quote(image)} {inside}"


def _is_apptainer(image: str) -> bool:
    return image.endswith(".sif")


@contextlib.contextmanager
def _outside_any_job() -> Iterator[None]:
    """Without the variables of a job this process may run in: sbatch would take them as options."""
    prefixes = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
    inner = "SLURM_JOB_ID" in os.environ
    removed = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if inner and name.startswith(prefixes) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(removed)
