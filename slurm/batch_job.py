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
from slurm.spec import SPEC_FILE, JobSpec, load_ids, save_ids, save_spec
from slurm.typed import SlurmError, to_json, write_whole

ASKED_FILE = "asked.json"


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


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a job was submitted with, kept in its folder for `slurm.again`."""

    resources: Resources
    throttle: int | None = None


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
    if (job.folder / SPEC_FILE).exists():
        raise SlurmError(f"--folder {job.folder}: holds a job already; give another, or remove it")
    there = job.folder.exists()
    empty = not there or not any(job.folder.iterdir())
    job.folder.mkdir(parents=True, exist_ok=True)
    job.folder.chmod(0o700)
    with contextlib.ExitStack() as undo:
        if empty:
            undo.callback(_take_back, job.folder, there)
        if job.snapshot is None:
            take_snapshot(job.folder, job.commit)
        ids = submit_again(job)
        undo.pop_all()
    return ids


def submit_again(job: BatchJob) -> tuple[str, ...]:
    """Submit a job in a folder that has its code; elements that are done end at once, training goes on from its
    checkpoints.

    Returns:
        SLURM's ids of the elements.

    Raises:
        SlurmError: a run directory is held by another job, or sbatch refuses.
    """
    run_dirs = [work.run_dir for work in job.spec.works]
    with contextlib.ExitStack() as undo:
        for run_dir in filter(None, run_dirs):
            acquire(run_dir, owner_here(job.folder))
            undo.callback(release, run_dir, job.folder)
        for name, source in job.files.items():
            shutil.copyfile(source, job.folder / name)
        save_spec(job.folder, job.spec)
        write_whole(job.folder / ASKED_FILE, to_json(Asked(resources=job.asked, throttle=job.throttle)))
        ids = _sbatch(job)
        save_ids(job.folder, ids)
        for held, job_id in zip(run_dirs, ids, strict=True):
            if held is not None:
                hand_over(held, owner_here(job.folder, job_id))
        undo.pop_all()
    return ids


def _take_back(folder: Path, there: bool) -> None:
    """Leave the folder as it was before a job that could not be submitted; SLURM may know one that has an id."""
    if not load_ids(folder):
        shutil.rmtree(folder)
        if there:
            folder.mkdir()


def _sbatch(job: BatchJob) -> tuple[str, ...]:
    executor = SlurmExecutor(folder=job.folder, python=_python(job))
    executor.update_parameters(**_parameters(job))
    tasks = [Task(folder=job.folder, index=i) for i in range(len(job.spec.works))]
    try:
        with _script_alone_decides(job.asked):
            jobs = executor.submit_array(tasks) if len(tasks) > 1 else [executor.submit(tasks[0])]
    except (FailedJobError, FailedSubmissionError) as error:
        raise SlurmError(f"sbatch refuses the job: {str(error).strip()}") from error
    return tuple(one.job_id for one in jobs)


def _parameters(job: BatchJob) -> dict[str, Any]:
    asked, spec = job.asked, job.spec
    extra: dict[str, Any] = {"requeue": True, "chdir": str(spec.directory), "kill-on-invalid-dep": "yes"}
    gpus = f"{asked.gpu_type}:{asked.gpus_per_node}" if asked.gpu_type else asked.gpus_per_node
    plain: dict[str, Any] = {
        "job_name": spec.name,
        "time": minutes(asked.time or "60"),
        "nodes": spec.nodes,
        "ntasks_per_node": spec.tasks_per_node,
        "cpus_per_task": asked.cpus_per_task,
        "gpus_per_node": gpus if asked.device == "gpu" else None,
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
        "wckey": None,  # submitit would ask for one of its own, which accounting may refuse
        "setup": _setup(job),
        "teardown": _teardown(job),
        "srun_args": _srun_arguments(job),
        "additional_parameters": {**extra, **_further(asked.sbatch or {})},
    }


def _further(options: Mapping[str, str]) -> dict[str, str | bool]:
    """Further options of sbatch; `true` stands for one without a value, `false` for none."""
    return {name: True if text == "true" else text for name, text in options.items() if text != "false"}


def _dependency(job: BatchJob) -> str | None:
    kinds = {"afterok": job.after, "aftercorr": job.after_each}
    return ",".join(f"{kind}:{':'.join(ids)}" for kind, ids in kinds.items() if ids) or None


def _setup(job: BatchJob) -> list[str]:
    """Lines before srun. The traps keep bash, which has to judge the start, alive through SLURM's signals; so does
    undoing what a setup file may have set: `set -e` would end the script with the first failed rank."""
    stay = "trap : TERM USR1 USR2"
    lines = [stay]
    if job.asked.setup is not None:
        lines += [f"source {shlex.quote(str(job.asked.setup))}", "set +eu", stay]
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
    """Since SLURM 22.05 srun does not take the cores of a task from sbatch; nor does it end ranks for a crashed one.

    Ranks get the script's environment even where sbatch was told to start with none.
    """
    arguments = ["--kill-on-bad-exit=1", "--export=ALL"]
    if job.asked.cpus_per_task:
        arguments.append(f"--cpus-per-task={job.asked.cpus_per_task}")
    if job.asked.container and not _is_apptainer(job.asked.container):
        arguments += [f"--container-image={job.asked.container}", f"--container-mounts={','.join(_mounts(job))}"]
    return arguments


def _python(job: BatchJob) -> str:
    """How a rank's Python is started."""
    image, inside = job.asked.container, shlex.quote(job.asked.container_python or "python3")
    if image is None:
        return shlex.quote(sys.executable)
    if not _is_apptainer(image):
        return inside
    gpus = " --nv" if job.asked.device == "gpu" else ""
    binds = " ".join(f"--bind {shlex.quote(mount)}" for mount in _mounts(job))
    return f"apptainer exec{gpus} {binds} {shlex.quote(image)} {inside}"


def _mounts(job: BatchJob) -> list[str]:
    """`HOST:INSIDE` of what ranks in a container see: where they run, the job, its code, where runs are kept, and what
    was asked for."""
    parents = {work.run_dir.parent for work in job.spec.works if work.run_dir is not None}
    seen = {job.spec.directory, job.folder, job.code, *parents}
    outermost = sorted(str(path) for path in seen if not seen & set(path.parents))
    asked = (job.asked.container_mounts or "").split(",")
    return [mount if ":" in mount else f"{mount}:{mount}" for mount in [*outermost, *filter(None, asked)]]


def _is_apptainer(image: str) -> bool:
    return image.endswith(".sif")


_STRONGER = (
    *("TIMELIMIT", "SIGNAL", "REQUEUE", "NO_REQUEUE", "JOB_NAME", "ARRAY_INX"),
    *("OUTPUT", "ERROR", "OPEN_MODE", "WAIT"),
)


@contextlib.contextmanager
def _script_alone_decides(asked: Resources) -> Iterator[None]:
    """Without variables that sbatch would prefer to the options in the script: those of a job this process may run in,
    and SBATCH_ ones of options that the script has."""
    given = [n.upper() for n in ("partition", "account", "qos", "constraint") if getattr(asked, n)]
    names = {f"SBATCH_{name}" for name in (*_STRONGER, *given)}
    inner = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_") if "SLURM_JOB_ID" in os.environ else ()
    removed = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name != "SLURM_CONF" and (name.startswith(inner) or name in names)
    }
    try:
        yield
    finally:
        os.environ.update(removed)
