"""A pipeline file in, its steps as SLURM jobs chained by dependencies out; called again, it goes on where it broke off.

A step is a training run (`recipe`) or any command line, alone or as an array over parts (`{part}` of `{parts}`).
"""

import argparse
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slurm import resources
from slurm.batch_job import BatchJob, batch_script, resubmit, submit
from slurm.cluster import JobState, cancel, has_sbatch, job_states
from slurm.lock import acquire, hand_over, owner_here
from slurm.recipe_check import recipe_facts
from slurm.resources import Resources
from slurm.snapshot import take_snapshot
from slurm.spec import SPEC_FILE, Work, load_ids, load_spec
from slurm.state import element_states
from slurm.status import all_done
from slurm.submit import FOLDERS, check_files, complete, job_spec, training_command
from slurm.typed import SlurmError, load_yaml


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a pipeline.

    Attributes:
        name: of it; unique.
        recipe, ds_config, overrides: of a training run.
        command: any other command line; `python` is the job's Python, `{part}` and `{parts}` are filled in.
        array: number of parts; each is an element that is restarted for itself.
        throttle: parts that run at the same time; None for all.
        progress: directory in which a growing number of files shows that a command gets on; `{part}` is filled in.
        after: names of the steps it waits for; the step before it where None.
        resources: over those of the pipeline.
    """

    name: str
    recipe: Path | None = None
    ds_config: Path | None = None
    overrides: tuple[str, ...] = ()
    command: str | None = None
    array: int = 1
    throttle: int | None = None
    progress: str | None = None
    after: tuple[str, ...] | None = None
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        problems = []
        if (self.recipe is None) == (self.command is None):
            problems.append("recipe, command: give one of the two")
        if self.recipe is not None and self.ds_config is None:
            problems.append("ds_config: missing, a recipe needs it")
        if self.recipe is not None and self.array != 1:
            problems.append("array: is for commands; sweep a recipe with `python -m slurm sweep`")
        if self.command is not None and (self.overrides or self.ds_config is not None):
            problems.append("overrides, ds_config: are for recipes; put them into the command")
        if self.array < 1 or (self.throttle is not None and self.throttle < 1):
            problems.append("array, throttle: expected 1 or more")
        if self.array > 1 and "{part}" not in (self.command or ""):
            problems.append("command: has no {part}, so that all parts of the array would do the same")
        if not self.name or "/" in self.name or self.name.startswith("."):
            problems.append(f"name: got {self.name!r}, expected a name fit for a directory")
        if problems:
            raise SlurmError("\n".join(problems))


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline file.

    Attributes:
        name: of its folder.
        steps: in their order.
        resources: of all steps, over those of the site.
    """

    name: str
    steps: tuple[Step, ...]
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        problems = []
        seen: set[str] = set()
        for step in self.steps:
            if step.name in seen:
                problems.append(f"steps: the name {step.name!r} occurs twice")
            problems += [
                f"steps.{step.name}.after: got {name!r}, expected a step above it"
                for name in step.after or ()
                if name not in seen
            ]
            seen.add(step.name)
        if not self.steps:
            problems.append("steps: got none")
        if problems:
            raise SlurmError("\n".join(problems))

    def waits_for(self, index: int) -> tuple[str, ...]:
        """Names of the steps that a step waits for."""
        after = self.steps[index].after
        return after if after is not None else tuple(step.name for step in self.steps[max(0, index - 1) : index])


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """Options of `pipeline`."""
    parser.add_argument("file", type=Path, help="YAML: name, steps, resources")
    parser.add_argument("--folder", type=Path, help=f"of the pipeline (default: {FOLDERS}/NAME); the same one goes on")
    parser.add_argument("--commit", help="code to run (default: the working tree as it is now)")
    parser.add_argument("--site", type=Path, help=f"YAML of site defaults (default: ${resources.SITE_VARIABLE})")
    parser.add_argument("--dry-run", action="store_true", help="print the batch scripts, and submit nothing")


def pipeline_command(options: argparse.Namespace) -> None:
    """`python -m slurm pipeline`: steps that are done or queued are left alone, failed ones go on."""
    pipeline = load_yaml(Pipeline, options.file, "pipeline")
    root = (options.folder or FOLDERS / pipeline.name).absolute()
    asked = [_complete(pipeline, step, options) for step in pipeline.steps]
    jobs = {
        step.name: step_job(root, i, step, own, Path.cwd())
        for i, (step, own) in enumerate(zip(pipeline.steps, asked, strict=True))
    }
    for job in jobs.values():
        check_files(job)
    if options.dry_run:
        for name, job in jobs.items():
            print(f"#### {name}\n{batch_script(job)}")
        return
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)
    if not (root / "snapshot").is_dir():
        take_snapshot(root, options.commit)
    elif options.commit:
        raise SlurmError(f"--commit: {root} was begun with the code in its snapshot; give another --folder")
    _submit_steps(pipeline, jobs)
    print(f"folder {root}\nfollow it with: python -m slurm status {root}")


def step_job(root: Path, index: int, step: Step, asked: Resources, directory: Path) -> BatchJob:
    """The job of a step."""
    folder, code = root / f"{index:02d}-{step.name}", root / "snapshot"
    if step.recipe is not None and step.ds_config is not None:
        facts = recipe_facts(step.recipe, step.overrides, directory)
        command = training_command(folder, code, step.overrides)
        works: tuple[Work, ...] = (Work(name=step.name, command=command, run_dir=facts.run_dir, steps=facts.steps),)
        files: Mapping[str, Path] = {"recipe.yaml": step.recipe, "ds_config.json": step.ds_config}
        tasks = None
    else:
        works = tuple(_part(step, directory, part) for part in range(step.array))
        files, tasks = {}, 1
    return BatchJob(
        folder=folder,
        spec=job_spec(step.name, directory, works, asked, tasks_per_node=tasks),
        asked=asked,
        snapshot=code,
        files=files,
        throttle=step.throttle,
    )


def _part(step: Step, directory: Path, part: int) -> Work:
    def fill(text: str) -> str:
        return text.replace("{parts}", str(step.array)).replace("{part}", str(part))

    return Work(
        name=f"part {part}" if step.array > 1 else step.name,
        command=tuple(shlex.split(fill(step.command or ""))),
        progress=directory / fill(step.progress) if step.progress else None,
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
        ids = [load_ids(jobs[name].folder) for name in waits_for if not _is_done(jobs[name], queue)]
        chained = dataclasses.replace(job, after=[one[0].partition("_")[0] for one in ids])
        submitted = _again(chained, queue) if known else submit(chained)
        print(f"{step.name}: job {submitted[0].partition('_')[0]}" + (f" after {', '.join(waits_for)}" if ids else ""))


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
