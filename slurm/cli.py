"""Arguments of `python -m slurm` in, one command run, its exit status out: 0 done, 1 failure, 2 change something."""

import argparse
import sys
from collections.abc import Sequence

from slurm.again import add_again_options, again_command
from slurm.pipeline import add_pipeline_options, pipeline_command
from slurm.report import add_report_options, report_command
from slurm.status import add_status_options, status_command
from slurm.submit import add_job_options, submit_command
from slurm.sweep import add_sweep_options, sweep_command
from slurm.typed import SlurmError

FAILURE, USAGE = 1, 2

_WITH_SETTINGS = {"submit": submit_command, "sweep": sweep_command, "pipeline": pipeline_command}
"""Commands that take `name=value` words."""

_OTHERS = {"again": again_command, "status": status_command, "report": report_command}


def main(arguments: Sequence[str]) -> int:
    """Run a command."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    overrides = [text for text in rest if not text.startswith("-") and "=" in text]
    unknown = [text for text in rest if text not in overrides]
    if unknown or (overrides and options.command not in _WITH_SETTINGS):
        parser.error(f"unrecognized arguments: {' '.join(unknown or overrides)}")
    try:
        if options.command in _WITH_SETTINGS:
            _WITH_SETTINGS[options.command](options, overrides)
        else:
            _OTHERS[options.command](options)
    except SlurmError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"error: {error.filename or options.command}: {error.strerror or error}", file=sys.stderr)
        return FAILURE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m slurm", description="Jobs on a SLURM cluster.")
    commands = parser.add_subparsers(dest="command", required=True)
    overrides = "settings such as optim.lr=1e-4 are laid over the recipe, as with trainer/run.py"
    add_job_options(commands.add_parser("submit", help="one training job", epilog=overrides, allow_abbrev=False))
    add_sweep_options(
        commands.add_parser("sweep", help="an array over recipe values", epilog=overrides, allow_abbrev=False)
    )
    values = "name=value gives a value of the file another text"
    add_pipeline_options(
        commands.add_parser("pipeline", help="steps chained by dependencies", epilog=values, allow_abbrev=False)
    )
    add_again_options(commands.add_parser("again", help="what failed of a job or sweep", allow_abbrev=False))
    add_status_options(commands.add_parser("status", help="state, step, loss and time left of jobs"))
    add_report_options(commands.add_parser("report", help="table and plots of a sweep"))
    return parser
