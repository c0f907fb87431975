"""A pipeline file in, its steps as SLURM jobs chained by dependencies out; called again, it goes on where it broke off.

A step runs alone, as an array over parts (`{part}` of `{parts}`), or for each point of the pipeline; what a file may
say is in `slurm.steps`.
"""

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm import resources
from slurm.batch_job import BatchJob, batch_script, resubmit, submit
from slurm.cluster import JobState, cancel, has_sbatch, job_states
from slurm.hparams import write_start
from slurm.lock import acquire, hand_over, owner_here
from slurm.points import make_points, resolve_values
from slurm.resources import Resources
from slurm.snapshot import SNAPSHOT, take_snapshot
from slurm.spec import SPEC_FILE, load_ids, load_spec
from slurm.state import DONE_STATE, element_states
from slurm.status import all_done
from slurm.step_job import Fills, step_job
from slurm.steps import Pipeline, Step
from slurm.submit import FOLDERS, check_files, complete
from slurm.typed import SlurmError, load_yaml

WAIT_S = 5.0
"""Between two looks at the queue."""


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """Options of `pipeline`."""
    parser.add_argument("file", type=Path, help="YAML: name, values, points, steps, resources")
    parser.add_argument("--folder", type=Path, help=f"of the pipeline (default: {FOLDERS}/NAME); the same one goes on")
    parser.add_argument("--commit", help="code to run (default: the working tree as it is now)")
    parser.add_argument("--site", type=Path, help=f"YAML of site defaults (default: ${resources.SITE_VARIABLE})")
    parser.add_argument("--dry-run", action="store_true", help="print the batch scripts, and submit nothing")
    parser.add_argument("--wait", action="store_true", help="until every step has ended; fails where one has failed")


def pipeline_command(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """`python -m slurm pipeline`: steps that are done or queued are left alone, failed ones go on.

    Args:
        overrides: `name=value` for the values of the file.
    """
    pipeline = load_yaml(Pipeline, options.file, "pipeline")
    root = (options.folder or FOLDERS / pipeline.name).absolute()
    jobs = _jobs(pipeline, root, options, overrides)
    for job in jobs.values():
        check_files(job)
        _check_same(job)
    if options.dry_run:
        for name, job in jobs.items():
            print(f"#### {name}\n{batch_script(job)}")
        return
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)
    if not (root / SNAPSHOT).is_dir():
        take_snapshot(root, options.commit)
    elif options.commit:
        raise SlurmError(f"--commit: {root} was begun with the code in its snapshot; give another --folder")
    _submit_steps(pipeline, jobs)
    print(f"folder {root}\nfollow it with: python -m slurm status {root}", flush=True)
    if options.wait:
        _wait(list(jobs.values()))


def _wait(jobs: Sequence[BatchJob]) -> None:
    """Until no element waits or runs, in two looks: one that is being requeued may be nowhere for a moment.

    Raises:
        SlurmError: names the steps that have not ended well.
    """
    ended = 0
    while ended < 2:
        time.sleep(WAIT_S)
        queue = job_states()
        states = {job.spec.name: element_states(job.folder, load_spec(job.folder), queue) for job in jobs}
        is_open = any(one.state in ("waiting", "running") for each in states.values() for one in each)
        ended = 0 if is_open else ended + 1
    bad = [
        f"step {name}: {sum(one.state != DONE_STATE for one in each)} of {len(each)} not done: "
        f"{next(one.reason for one in each if one.state != DONE_STATE)}"
        for name, each in states.items()
        if not all_done(each)
    ]
    if bad:
        raise SlurmError("\n".join(bad))


def _jobs(pipeline: Pipeline, root: Path, options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, BatchJob]:
    values = resolve_values(pipeline.values, overrides)
    fills = Fills(values=values, points=make_points(pipeline.points), directory=Path.cwd())
    asked = [_complete(pipeline, step, options) for step in pipeline.steps]
    return {
        step.name: step_job(root, i, step, own, fills)
        for i, (step, own) in enumerate(zip(pipeline.steps, asked, strict=True))
    }


def _check_same(job: BatchJob) -> None:
    """A folder goes on with what it was begun with: records of its elements are kept by their numbers."""
    if (job.folder / SPEC_FILE).is_file() and load_spec(job.folder).works != job.spec.works:
        raise SlurmError(
            f"{job.folder}: was begun with other commands, values or points; call it as before, or give another "
            "--folder, where training that is done already ends at once"
        )


def _complete(pipeline: Pipeline, step: Step, options: argparse.Namespace) -> Resources:
    own = step.resources.over(pipeline.resources).over(resources.load_site(options.site))
    if step.command is not None and step.resources.nodes is None:
        own = dataclasses.replace(own, nodes=1)
    try:
        return complete(own, options.dry_run)
    except SlurmError as error:
        raise SlurmError("\n".join(f"step {step.name}: {line}" for line in str(error).splitlines())) from error


def _submit_steps(pipeline: Pipeline, jobs: Mapping[str, BatchJob]) -> None:
    queue = job_states() if has_sbatch() else {}
    broken: set[str] = set()
    for i, step in enumerate(pipeline.steps):
        job, waits_for = jobs[step.name], pipeline.waits_for(i)
        known = (job.folder / SPEC_FILE).is_file()
        states = element_states(job.folder, load_spec(job.folder), queue) if known else []
        if known and all_done(states):
            print(f"{step.name}: done")
            continue
        if known and not broken & set(waits_for) and any(state.state in ("waiting", "running") for state in states):
            print(f"{step.name}: {', '.join(sorted({state.state for state in states}))}")
            continue
        broken.add(step.name)
        ids = {name: load_ids(jobs[name].folder)[0] for name in waits_for if not _is_done(jobs[name], queue)}
        is_array = step.points and len(job.spec.works) > 1
        each = {name for name in ids if is_array and pipeline.step(name).points}
        chained = dataclasses.replace(
            job,
            after=[job_id.partition("_")[0] for name, job_id in ids.items() if name not in each],
            after_each=[job_id.partition("_")[0] for name, job_id in ids.items() if name in each],
        )
        submitted = _again(chained, queue) if known else _submit(chained)
        print(f"{step.name}: job {submitted[0].partition('_')[0]}" + (f" after {', '.join(waits_for)}" if ids else ""))


def _submit(job: BatchJob) -> Sequence[str]:
    ids = submit(job)
    for work in job.spec.works:
        if work.run_dir is not None and work.values:
            write_start(work.run_dir / "tensorboard", work.values, work.name)
    return ids


def _is_done(job: BatchJob, queue: dict[str, JobState]) -> bool:
    return all_done(element_states(job.folder, load_spec(job.folder), queue))


def _again(job: BatchJob, queue: Mapping[str, JobState]) -> Sequence[str]:
    """Submit a step anew in its folder: finished parts end at once, training goes on from its checkpoint.

    What still waits in the queue, for a step that failed, is cancelled first.
    """
    for former in load_ids(job.folder):
        problem = cancel(former) if former in queue else ""
        if problem:
            raise SlurmError(f"{job.folder}: job {former} still waits and cannot be cancelled: {problem}")
    run_dirs = [work.run_dir for work in job.spec.works]
    for run_dir in run_dirs:
        if run_dir is not None:
            acquire(run_dir, owner_here(job.folder))
    ids = resubmit(job)
    for run_dir, job_id in zip(run_dirs, ids, strict=True):
        if run_dir is not None:
            hand_over(run_dir, owner_here(job.folder, job_id))
    return ids
