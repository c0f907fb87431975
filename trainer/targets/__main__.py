"""`python -m data_shards teacher-targets`, which starts this program: fits codebooks and writes teacher targets.

    python -m data_shards teacher-targets --recipe R.yaml --fit-codebook [a.b=c ...]
    python -m data_shards teacher-targets --recipe R.yaml [--part I/N] [a.b=c ...]

The recipe is that of the student's distillation: it names teacher, view, datasets with their `targets`, and codebook.
Exit status: 0 done, 1 failure, 2 wrong usage or configuration, 75 stopped.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers.utils import logging as transformers_logging

from data_shards.entries import ShardError
from data_shards.read import BadSample
from models.loading import ModelError
from trainer.codebook import CodebookError
from trainer.config import ConfigError, load_recipe
from trainer.recipe import Recipe
from trainer.stages.sources import StageError
from trainer.targets.make import make_codebook, make_targets

FAILURE, USAGE, STOPPED = 1, 2, 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; problems go to standard error as one message."""
    options = _parser().parse_args(arguments)
    transformers_logging.disable_progress_bar()
    try:
        recipe, _ = load_recipe(options.recipe, options.overrides)
        _check(recipe, fit=options.fit_codebook)
        if options.fit_codebook:
            make_codebook(recipe, print)
        else:
            make_targets(recipe, options.part, print)
    except (BadSample, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILURE
    except (ConfigError, StageError, ModelError, CodebookError, ShardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("stopped; whole shards are kept, and the same command goes on from there", file=sys.stderr)
        return STOPPED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_shards teacher-targets",
        description="Write what a teacher makes of every tile beside the shards, so that students train without it.",
    )
    parser.add_argument("--recipe", type=Path, required=True, help="of the student's distillation")
    parser.add_argument("--fit-codebook", action="store_true", help="fit distill.codebook, which comes first, and stop")
    parser.add_argument(
        "--part",
        type=_part,
        default=(0, 1),
        metavar="I/N",
        help="only every N-th shard from the I-th on, counted from 0",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="laid over the recipe")
    return parser


def _check(recipe: Recipe, *, fit: bool) -> None:
    """What this command needs beyond a sound recipe.

    Raises:
        ConfigError: it is missing.
    """
    problems = []
    if recipe.stage != "distill":
        problems.append(f"stage: got {recipe.stage!r}, expected 'distill': targets are a teacher's")
    if recipe.distill.codebook is None:
        problems.append("distill.codebook: missing; name the file of the codebook")
    if not (recipe.model.teacher or recipe.model.teacher_vlm):
        problems.append("model.teacher: missing; name the directory of the teacher")
    if not fit and not all(dataset.targets for dataset in recipe.data.datasets):
        problems.append("data.datasets: each needs `targets`, the directory to write")
    if problems:
        raise ConfigError("\n".join(problems))


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected I/N with I from 0 to N - 1, such as 0/4")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    sys.exit(main())
