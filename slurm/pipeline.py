"""A pipeline file in, its steps as SLURM jobs chained by dependencies out; called again, it goes on where it broke off.

A step runs alone, as an array over parts (`{part}` of `{parts}`), or for each point of the pipeline; what a file may
say is in `slurm.steps`.
"""

import argparse
import contextlib
import dataclasses
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from slurm import resources
from slurm.batch_job import BatchJob, batch_script, submit, submit_again
from slurm.cluster import JobState, cancel, has_sbatch, job_states
from slurm.hparams import write_start
from slurm.lock import only_here
from slurm.pipeline_checks import check_recipes, check_run_dirs, check_same
from slurm.points import make_points, resolve_values
from slurm.resources import Resources
from slurm.snapshot import PARTIAL, SNAPSHOT, code_of, take_snapshot
from slurm.spec import SPEC_FILE, check_new, load_ids, load_spec
from slurm.state import DONE_STATE, FAILED_STATE, OPEN_STATES, RUNNING_STATE, element_states
from slurm.status import all_done
from slurm.step_job import Fills, step_job
from slurm.steps import Pipeline, Step
from slurm.submit import FOLDERS, check_files, check_free, complete
from slurm.typed import SlurmError, load_yaml

WAIT_S, MOST_WAIT_S = 5.0, 60.0
"""Between two looks at the queue, at first and later: each asks the controller for all jobs."""


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """Options of `pipeline`."""
    parser.add_argument("file", type=Path, help="YAML: name, values, points, steps, resources")
    parser.add_argument("--folder", type=Path, help=f"of the pipeline (default: {FOLDERS}/NAME); the same one goes on")
    parser.add_argument("--commit", help="code to run (default: the working tree as it is now)")
    parser.add_argument("--site", type=Path, help=f"YAML of site defaults (default: ${resources.SITE_VARIABLE})")
    parser.add_argument("--dry-run", action="store_true", help="print the batch scripts, and submit nothing")
    parser.add_argument("--unchecked", action="store_true", help="do not let the trainer check the recipes first")
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
        check_same(job)
    check_run_dirs(jobs)
    if options.dry_run:
        for name, job in jobs.items():
            print(f"#### {name}\n{batch_script(job)}")
        return
    with only_here(root):
        check_free([work.run_dir for job in jobs.values() for work in job.spec.works if work.run_dir], own=root)
        begun = _is_begun(root, options.commit)
        print(_recipes_note(root if begun else None, jobs, options), end="")
        if not begun:
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(0o700)
            take_snapshot(root, options.commit)
        _submit_steps(pipeline, jobs)
    print(f"folder {root}\nfollow it with: python -m slurm status {shlex.quote(str(root))}", flush=True)
    if options.wait:
        _wait(list(jobs.values()))


def _recipes_note(begun: Path | None, jobs: Mapping[str, BatchJob], options: argparse.Namespace) -> str:
    """What came of checking the recipes with the code that will run, as a line, or nothing."""
    if options.unchecked:
        return "the recipes were not checked: --unchecked\n"
    with code_of(options.commit) if begun is None else contextlib.nullcontext(begun / SNAPSHOT) as code:
        note = check_recipes(jobs, code)
    return f"{note}\n" if note else ""


def _is_begun(root: Path, commit: str | None) -> bool:
    """Whether the folder has its code; one that was left while the code was copied is begun anew.

    Raises:
        SlurmError: it has its code, and another was asked for; or it is the folder of something else.
    """
    if (root / SNAPSHOT).is_dir():
        if commit:
            raise SlurmError(f"--commit: {root} was begun with the code in its snapshot; give another --folder")
        return True
    if not (root / PARTIAL).exists():
        check_new(root)
    return False


def _wait(jobs: Sequence[BatchJob]) -> None:
    """Until no element waits or runs, in two looks: one that is being requeued may be nowhere for a moment.

    Raises:
        SlurmError: names the steps that have not ended well.
    """
    ended, pause = 0, WAIT_S
    while ended < 2:
        time.sleep(pause)
        pause = min(1.2 * pause, MOST_WAIT_S)
        queue = job_states()
        states = {job.spec.name: element_states(job.folder, load_spec(job.folder), queue) for job in jobs}
        is_open = any(one.state in OPEN_STATES for each in states.values() for one in each)
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
    jobs = {}
    for i, step in enumerate(pipeline.steps):
        with _blamed(step):
            jobs[step.name] = step_job(root, i, step, _complete(pipeline, step, options), fills)
    return jobs


@contextlib.contextmanager
def _blamed(step: Step) -> Iterator[None]:
    """Errors name the step."""
    try:
        yield
    except SlurmError as error:
        raise SlurmError("\n".join(f"step {step.name}: {line}" for line in str(error).splitlines())) from error


def _complete(pipeline: Pipeline, step: Step, options: argparse.Namespace) -> Resources:
    """What a step asks for. A command is one task: it gets one node and one GPU unless the step itself says more."""
    own = step.resources.over(pipeline.resources).over(resources.load_site(options.site))
    if step.command is not None:
        own = dataclasses.replace(own, nodes=step.resources.nodes or 1, gpus_per_node=step.resources.gpus_per_node or 1)
    return complete(own, options.dry_run)


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
        seen = sorted({state.state for state in states})
        if RUNNING_STATE in seen or (not broken & set(waits_for) and set(seen) & set(OPEN_STATES)):
            later = "; what failed is done again when this is called after its end" if FAILED_STATE in seen else ""
            print(f"{step.name}: {', '.join(seen)}{later}")
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
    """Submit a step anew in its folder, with the recipe as it is now: finished parts end at once, training goes on from
    its checkpoint.

    What still waits in the queue, for a step that failed, is cancelled first.
    """
    for former in load_ids(job.folder):
        problem = cancel(former) if former in queue else ""
        if problem:
            raise SlurmError(f"{job.folder}: job {former} still waits and cannot be cancelled: {problem}")
    for name, source in job.files.items():
        copy = job.folder / name
        if copy.is_file() and copy.read_bytes() != source.read_bytes():
            print(f"{job.spec.name}: goes on with {source}, which has changed")
    return submit_again(job)
