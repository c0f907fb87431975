"""Options of a judge on a command line in, the judge out; options that it would ignore are refused."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer.evaluate.judge import Judge, JudgeOptions, NoJudge, parse_judge
from trainer.evaluate.judge_remote import DEFAULT_PROMPT
from trainer.evaluate.submission import SubmissionError

CACHE_NAME = "judge_replies.jsonl"

_OUTSIDE = ("judge_prompt", "judge_cache", "judge_key_variable", "judge_attempts", "judge_timeout", "judge_workers")
"""For a judge outside of this program alone."""

_DEFAULTS = JudgeOptions()


def add_judge(parser: argparse.ArgumentParser) -> None:
    """All options of a judge; their defaults are None, so that what was given is known."""
    parser.add_argument(
        "--judge",
        default="none",
        help="none, jaccard, const:X with X in 0..100, command:PROGRAM or openai:MODEL@URL (default: %(default)s)",
    )
    group = parser.add_argument_group("judge outside of this program (command, openai)")
    group.add_argument("--judge-prompt", type=Path, metavar="FILE", help="text with {answer} and {reference}")
    group.add_argument(
        "--judge-cache", type=Path, metavar="FILE", help=f"replies kept by prompt (default: {CACHE_NAME} beside --out)"
    )
    group.add_argument(
        "--judge-key-variable", help=f"environment variable of the key (default: {_DEFAULTS.key_variable})"
    )
    group.add_argument("--judge-attempts", type=int, help=f"for one prompt (default: {_DEFAULTS.attempts})")
    group.add_argument("--judge-timeout", type=float, help=f"seconds for one (default: {_DEFAULTS.timeout:g})")
    group.add_argument("--judge-workers", type=int, help=f"prompts asked at once (default: {_DEFAULTS.workers})")


def chosen_judge(arguments: argparse.Namespace) -> Judge | NoJudge:
    """The judge that is asked for.

    Raises:
        SubmissionError: options that it ignores, or a prompt that is no text.
        JudgeError: as `parse_judge`.
    """
    kind = str(arguments.judge).partition(":")[0]
    if kind not in ("command", "openai"):
        refuse_options(arguments, _OUTSIDE, f"--judge {kind}", "a judge outside of this program (command, openai)")
    return parse_judge(arguments.judge, _options(arguments))


def refuse_judge(arguments: argparse.Namespace, beside: str) -> None:
    """Refuse every option of a judge beside `beside`, which has none.

    Raises:
        SubmissionError: naming the first one.
    """
    if arguments.judge != "none":
        raise SubmissionError(f"--judge: got it with {beside}, expected it with drivelm alone; leave it out")
    refuse_options(arguments, _OUTSIDE, beside, "drivelm alone")


def refuse_options(arguments: argparse.Namespace, names: Sequence[str], beside: str, expected: str) -> None:
    """Refuse options that would be ignored.

    Raises:
        SubmissionError: naming the first one that was given.
    """
    for name in names:
        if getattr(arguments, name) not in (None, False, []):
            raise SubmissionError(
                f"--{name.replace('_', '-')}: got it with {beside}, expected it with {expected}; leave it out"
            )


def _options(arguments: argparse.Namespace) -> JudgeOptions:
    named = ("key_variable", "attempts", "timeout", "workers")
    given = {name: value for name in named if (value := getattr(arguments, f"judge_{name}")) is not None}
    cache = arguments.judge_cache or arguments.out.with_name(CACHE_NAME)
    return replace(_DEFAULTS, cache=cache, prompt=_prompt(arguments.judge_prompt), **given)


def _prompt(path: Path | None) -> str:
    if path is None:
        return DEFAULT_PROMPT
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SubmissionError(f"{path}: got bytes that are not UTF-8, expected a text") from error
