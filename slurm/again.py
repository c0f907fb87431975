"""Folder of a job or sweep in, what failed of it submitted once more out: the same code, perhaps other resources."""

import argparse
from pathlib import Path

from slurm import resources
from slurm.batch_job import ASKED_FILE, Asked, BatchJob, submit_again
from slurm.lock import only_here
from slurm.snapshot import SNAPSHOT
from slurm.spec import load_spec
from slurm.state import OPEN_STATES, element_states
from slurm.status import all_done
from slurm.submit import complete, job_spec, print_submitted
from slurm.typed import SlurmError, from_json


def add_again_options(parser: argparse.ArgumentParser) -> None:
    """Options of `again`."""
    parser.add_argument("folder", type=Path, help="of a job or sweep")
    resources.add_options(parser)


def again_command(options: argparse.Namespace) -> None:
    """`python -m slurm again`: elements that are done end at once, training goes on from its checkpoints."""
    folder = options.folder.absolute()
    spec = load_spec(folder)
    if not (folder / SNAPSHOT).is_dir() or not (folder / ASKED_FILE).is_file():
        raise SlurmError(f"{folder}: has no code of its own; call the pipeline again that it is a step of")
    with only_here(folder):
        states = element_states(folder, spec)
        if all_done(states):
            print("done: nothing is left to do")
            return
        still = [state.job for state in states if state.state in OPEN_STATES]
        if still:
            raise SlurmError(
                f"{folder}: {len(still)} of {len(states)} wait or run ({still[0]}, ...); cancel them, or wait"
            )
        before = from_json(Asked, folder / ASKED_FILE)
        asked = complete(resources.from_options(options).over(before.resources), dry_run=False)
        job = BatchJob(
            folder=folder,
            spec=job_spec(spec.name, spec.directory, spec.works, asked),
            asked=asked,
            files={},
            throttle=before.throttle,
        )
        print_submitted(job, submit_again(job))
