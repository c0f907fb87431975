"""Command line in, one training job on the cluster out: checks first, then a snapshot of the code, then sbatch."""

import argparse
import dataclasses
import itertools
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from slurm import resources
from slurm.batch_job import BatchJob, batch_script, submit
from slurm.cluster import check_resources, has_sbatch, partitions, require_sbatch
from slurm.lock import holder, is_alive, only_here
from slurm.recipe_check import recipe_facts, validate
from slurm.resources import Resources
from slurm.snapshot import SNAPSHOT, code_of
from slurm.spec import JobSpec, Work, check_name, check_new
from slurm.typed import SlurmError

RECIPE_COPY, DS_CONFIG_COPY = "recipe.yaml", "ds_config.json"
FOLDERS = Path("runs") / "slurm"


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Options that `submit` and `sweep` share."""
    parser.add_argument("--recipe", type=Path, required=True, help="YAML recipe; copied into the job's folder")
    parser.add_argument("--ds_config", type=Path, required=True, help="DeepSpeed JSON; copied into the job's folder")
    parser.add_argument("--name", help="of the job (default: the recipe's stage)")
    parser.add_argument("--folder", type=Path, help=f"of the job (default: {FOLDERS}/NAME-DATE)")
    parser.add_argument("--commit", help="code to run (default: the working tree as it is now)")
    parser.add_argument("--site", type=Path, help=f"YAML of site defaults (default: ${resources.SITE_VARIABLE})")
    parser.add_argument("--dry-run", action="store_true", help="print the batch script, and submit nothing")
    parser.add_argument("--unchecked", action="store_true", help="do not let the trainer check the recipe first")
    resources.add_options(parser)


def submit_command(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """`python -m slurm submit`."""
    asked = complete(resources.from_options(options).over(resources.load_site(options.site)), options.dry_run)
    directory = Path.cwd()
    facts = recipe_facts(options.recipe, overrides, directory)
    name = options.name or facts.stage
    folder = job_folder(options.folder, name)
    if facts.run_dir.resolve() == folder.resolve():
        raise SlurmError(f"--folder {folder}: is the run_dir of the recipe too; give another")
    command = training_command(folder, folder / SNAPSHOT, overrides)
    work = Work(name=name, command=command, run_dir=facts.run_dir, steps=facts.steps)
    job = BatchJob(
        folder=folder,
        spec=job_spec(name, directory, (work,), asked),
        asked=asked,
        commit=options.commit,
        files={RECIPE_COPY: options.recipe, DS_CONFIG_COPY: options.ds_config},
    )
    if options.dry_run:
        print(batch_script(job), end="")
        return
    with only_here(folder):
        check_new(folder)
        check_files(job)
        check_free([facts.run_dir])
        print(check_recipe(options, overrides, job))
        print_submitted(job, submit(job))


def job_folder(given: Path | None, name: str) -> Path:
    """The folder of a new job: the one given, or a free one named after the job and the time.

    Raises:
        SlurmError: the name is not fit for a directory.
    """
    check_name(name, "--name")
    if given is not None:
        return given.absolute()
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(FOLDERS / one for one in names if not (FOLDERS / one).exists()).absolute()


def check_recipe(options: argparse.Namespace, overrides: Sequence[str], job: BatchJob) -> str:
    """The trainer's verdict on a run with as many ranks as it will have; see `recipe_check.validate`."""
    if options.unchecked:
        return "the recipe was not checked: --unchecked"
    num_ranks = job.spec.nodes * job.spec.tasks_per_node
    files = (options.recipe, options.ds_config)
    with code_of(options.commit) as code:
        return validate(code, *files, overrides, num_ranks=num_ranks, directory=job.spec.directory)


def complete(asked: Resources, dry_run: bool) -> Resources:
    """Resources with the device decided, checked against the cluster; without one only a dry run goes on.

    Raises:
        SlurmError: no such setup file or image, no sbatch, unknown partition, or more than the partition has.
    """
    asked = _with_files(dataclasses.replace(asked, partition=asked.partition or os.environ.get("SBATCH_PARTITION")))
    if not has_sbatch() and dry_run:
        return dataclasses.replace(asked, device="gpu" if asked.device == "auto" else asked.device)
    require_sbatch()
    _check_lead(asked)
    partition, problems = check_resources(asked, partitions())
    if problems:
        raise SlurmError("\n".join(problems))
    if asked.device == "auto":
        asked = dataclasses.replace(asked, device="gpu" if partition.gpus else "cpu")
    return asked


def _with_files(asked: Resources) -> Resources:
    """With the path of the setup file made absolute; the batch script would go on without a missing one."""
    image = asked.container or ""
    if image.endswith(".sif") and not Path(image).is_file():
        raise SlurmError(f"--container: {image}: no such file; give the path of an image")
    if asked.setup is None:
        return asked
    setup = asked.setup.expanduser().absolute()
    if not setup.is_file():
        raise SlurmError(f"--setup: {setup}: no such file; give a shell file, or leave it out (setup of the site file)")
    return dataclasses.replace(asked, setup=setup)


def _check_lead(asked: Resources) -> None:
    limit = 60 * resources.minutes(asked.time or "60")
    lead = asked.signal_lead_s or 0
    if lead >= limit:
        raise SlurmError(
            f"--signal-lead-s: got {lead} s, expected less than the time limit of {limit} s; give --time more, or less "
            "time to save"
        )


def job_spec(
    name: str, directory: Path, works: tuple[Work, ...], asked: Resources, tasks_per_node: int | None = None
) -> JobSpec:
    """What the running job needs to know, of what was asked for."""
    return JobSpec(
        name=name,
        directory=directory,
        works=works,
        nodes=asked.nodes or 1,
        tasks_per_node=tasks_per_node or asked.gpus_per_node or 1,
        max_crashes=asked.max_crashes or 0,
        max_stalls=asked.max_stalls or 1,
        hang_minutes=asked.hang_minutes or 0.0,
        exclude_failed_nodes=bool(asked.exclude_failed_nodes),
        on_cpu=asked.device == "cpu",
    )


def training_command(folder: Path, code: Path, overrides: Sequence[str]) -> tuple[str, ...]:
    """What each rank of a training job runs."""
    files = ("--ds_config", str(folder / DS_CONFIG_COPY), "--recipe", str(folder / RECIPE_COPY))
    return ("python", str(code / "trainer" / "run.py"), *files, *overrides)


def overrides_of(work: Work) -> tuple[str, ...]:
    """Those that `training_command` was given."""
    return work.command[len(training_command(Path(), Path(), ())) :]


def check_files(job: BatchJob) -> None:
    """Stop where a file to be copied is missing.

    Raises:
        SlurmError: names all of them.
    """
    missing = [source for source in job.files.values() if not source.is_file()]
    if missing:
        raise SlurmError("\n".join(f"{source}: no such file" for source in missing))


def check_free(run_dirs: Sequence[Path], own: Path | None = None) -> None:
    """Stop where a live job holds one of the run directories, but for those of the folder `own`.

    Raises:
        SlurmError: names all of them.
    """
    held = [
        f"run_dir {run_dir}: held by job {owner.job or f'process {owner.pid}'} from {owner.folder}; wait for it, "
        "cancel it, or give another run_dir"
        for run_dir in run_dirs
        if (owner := holder(run_dir)) is not None
        and not (own is not None and Path(owner.folder).is_relative_to(own))
        and is_alive(owner)
    ]
    if held:
        raise SlurmError("\n".join(held))


def print_submitted(job: BatchJob, ids: Sequence[str]) -> None:
    """Say what was submitted and how to follow it."""
    shown = ids[0] if len(ids) == 1 else f"{ids[0].partition('_')[0]} ({len(ids)} elements)"
    if job.asked.device == "gpu" and job.asked.cpus_per_task is None and "cpus-per-gpu" not in (job.asked.sbatch or {}):
        print("note: without --cpus-per-task SLURM gives each rank one core, its data workers included")
    print(f"submitted job {shown}: {job.spec.name}\nfolder {job.folder}")
    print(f"follow it with: python -m slurm status {shlex.quote(str(job.folder))}", flush=True)
