"""Command line in, predictions or scores out: `python -m trainer.evaluate predict|score|lint`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_shards.atomic import write_atomically
from trainer.evaluate.drivelm import score
from trainer.evaluate.judge import parse_judge
from trainer.evaluate.submission import count_problems, lint, read_references, read_submission

DONE, FAILURE, WRONG_USAGE = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand; problems go to standard error as one message, never as a traceback."""
    options = _parser(arguments).parse_args(arguments)
    try:
        return int(options.command(options))
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
    commands = parser.add_subparsers(required=True, metavar="command")
    predict = commands.add_parser("predict", help="answer the questions of a dataset with a model")
    if "predict" in arguments[:1]:
        _add_predict(predict)
    scorer = commands.add_parser("score", help="DriveLM's official scores and what they leave out")
    _add_files(scorer)
    scorer.add_argument(
        "--judge", default="none", help="none, jaccard or const:X with X in 0..100 (default: %(default)s)"
    )
    scorer.add_argument("--out", type=Path, required=True, help="JSON file of scores to write")
    scorer.set_defaults(command=_score)
    linter = commands.add_parser("lint", help="check a submission before its upload")
    _add_files(linter)
    linter.set_defaults(command=_lint)
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--predictions", type=Path, required=True, help="JSON rows {id, question, answer}, plain or wrapped"
    )
    parser.add_argument("--references", type=Path, required=True, help="DriveLM's test form, JSON")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    from trainer.evaluate import predict  # the other commands need no torch

    predict.add_arguments(parser)
    parser.set_defaults(command=predict.run)


def _score(options: argparse.Namespace) -> int:
    judge = parse_judge(options.judge)
    references = read_references(options.references)
    scores = score(references, read_submission(options.predictions), judge)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, (json.dumps(scores, indent=2) + "\n").encode())
    print(_summary(scores))
    print(f"written to {options.out}")
    return DONE


def _summary(scores: dict[str, Any]) -> str:
    official, counts = scores["official"], scores["counts"]
    rows = {name: official[name] for name in ("accuracy", "chatgpt", "match", "final")} | official["language"]
    lines = [f"{name:9} {'needs a judge' if value is None else format(value, '.4f')}" for name, value in rows.items()]
    lines.append(
        f"scored after the graph gate: {counts['questions'] - counts['gated_out']} of {counts['questions']} questions"
    )
    lines += [f"failures: {number} {kind}" for kind, number in counts["failures"].items()]
    return "\n".join(lines)


def _lint(options: argparse.Namespace) -> int:
    problems = lint(read_submission(options.predictions), read_references(options.references))
    for problem in problems:
        print(f"{problem.kind}: {problem.id}: {problem.detail}")
    print("no problems" if not problems else f"{len(problems)} problems: {json.dumps(count_problems(problems))}")
    return FAILURE if problems else DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
