"""The jobs of a pipeline in, errors out: steps that meet in one run directory, differ from what was begun, or have
wrong recipes."""

from collections.abc import Mapping
from pathlib import Path

from slurm.batch_job import BatchJob
from slurm.recipe_check import Run, check_settings
from slurm.spec import SPEC_FILE, load_spec
from slurm.state import DONE_STATE, OPEN_STATES, element_states
from slurm.submit import DS_CONFIG_COPY, RECIPE_COPY, overrides_of
from slurm.typed import SlurmError


def check_run_dirs(jobs: Mapping[str, BatchJob]) -> None:
    """Refuse two steps that train in one directory: the second would find what the first has left.

    Raises:
        SlurmError: names both.
    """
    users: dict[Path, str] = {}
    for name, job in jobs.items():
        for work in job.spec.works:
            if work.run_dir is not None and users.setdefault(work.run_dir, name) != name:
                raise SlurmError(
                    f"steps {users[work.run_dir]} and {name}: have the same run_dir {work.run_dir}; give one of them "
                    "another in its overrides"
                )


def check_same(job: BatchJob) -> None:
    """What is done, waits or runs stays as it was begun; what failed may be given other commands.

    Raises:
        SlurmError: other commands for the rest, or another number of elements: their records are kept by number.
    """
    if not (job.folder / SPEC_FILE).is_file():
        return
    before = load_spec(job.folder)
    if len(before.works) != len(job.spec.works):
        raise SlurmError(
            f"{job.folder}: was begun with {len(before.works)} points or parts, got {len(job.spec.works)}; give "
            "another --folder, where finished training ends at once"
        )
    states = element_states(job.folder, before)
    works = zip(before.works, job.spec.works, states, strict=True)
    if any(one != now and state.state in (DONE_STATE, *OPEN_STATES) for one, now, state in works):
        raise SlurmError(
            f"{job.folder}: was begun with other commands, values or points, and is done or queued; call it as before, "
            "cancel what waits in order to change it, or give another --folder, where finished training ends at once"
        )


def check_recipes(jobs: Mapping[str, BatchJob], code: Path) -> str:
    """The trainer's verdict on the settings of all training runs; a misspelt field of the last step is found before the
    first one starts. Data and models of later steps are checked when they start.

    Raises:
        SlurmError: names the step of each problem.
    """
    runs = [
        Run(
            name=f"step {name}" + (f", {work.name}" if len(job.spec.works) > 1 else ""),
            recipe=job.files[RECIPE_COPY],
            ds_config=job.files[DS_CONFIG_COPY],
            overrides=overrides_of(work),
            world_size=job.spec.nodes * job.spec.tasks_per_node,
        )
        for name, job in jobs.items()
        for work in job.spec.works
        if work.is_training
    ]
    return check_settings(code, runs, next(iter(jobs.values())).spec.directory) if runs else ""
