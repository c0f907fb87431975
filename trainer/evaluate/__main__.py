"""Command line in, predictions, scores or a report out: `python -m trainer.evaluate predict|score|lint|report`."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from trainer.evaluate import score_cli
from trainer.evaluate.lint import lint_file
from trainer.evaluate.submission import count_problems, read_references

DONE, FAILURE, WRONG_USAGE, STOPPED = 0, 1, 2, 75


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand; problems go to standard error as one message, never as a traceback."""
    options = _parser(arguments).parse_args(arguments)
    try:
        return int(options.command(options))
    except KeyboardInterrupt:
        print("stopped; a judge's replies so far are kept", file=sys.stderr)
        return STOPPED
    except OSError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILURE
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.evaluate", description="Answer DriveLM questions and score answers."
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher's
    commands = parser.add_subparsers(required=True, metavar="command")
    predict = commands.add_parser("predict", help="answer the questions of a dataset with a model")
    if "predict" in arguments:
        _add_predict(predict)
    scorer = commands.add_parser("score", help="DriveLM's official scores and what they leave out")
    score_cli.add_arguments(scorer)
    scorer.set_defaults(command=score_cli.run)
    linter = commands.add_parser("lint", help="check a submission before its upload")
    linter.add_argument(
        "--predictions", type=Path, required=True, help="JSON rows {id, question, answer}, plain or wrapped"
    )
    linter.add_argument("--references", type=Path, required=True, help="DriveLM's test form, with or without answers")
    linter.add_argument("--upload", action="store_true", help="plain rows, without the server's fields, are a problem")
    linter.set_defaults(command=_lint)
    reporter = commands.add_parser("report", help="one HTML file of scores, failures and pictures to look at")
    if "report" in arguments:
        _add_report(reporter)
    return parser


def _add_predict(parser: argparse.ArgumentParser) -> None:
    from trainer.evaluate import predict_cli  # the other commands need no torch

    predict_cli.add_arguments(parser)
    parser.set_defaults(command=predict_cli.run)


def _add_report(parser: argparse.ArgumentParser) -> None:
    from trainer.evaluate.report import report_cli  # reads shards, which may bring torch

    report_cli.add_arguments(parser)
    parser.set_defaults(command=report_cli.run)


def _lint(options: argparse.Namespace) -> int:
    references = read_references(options.references, answered=False)
    problems = lint_file(options.predictions, references, upload=options.upload)
    for problem in problems:
        print(f"{problem.kind}: {problem.id}: {problem.detail}")
    print("no problems" if not problems else f"{len(problems)} problems: {json.dumps(count_problems(problems))}")
    return WRONG_USAGE if problems else DONE


def _print_any_text() -> None:
    """Ids and answers may hold what the terminal's encoding has not: it is printed escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _leave(status: int) -> NoReturn:
    """Exit at once: torch's communication threads can abort a process whose interpreter is torn down."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _print_any_text()
    _leave(main(sys.argv[1:]))
