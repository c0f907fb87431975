"""Options of `python -m trainer.evaluate predict` in, an exit status out: 0 done, 1 failure, 2 wrong usage, 75 stopped.

Started by the deepspeed launcher or with RANK and WORLD_SIZE set, the ranks share the frames.
"""

import argparse
import sys
from pathlib import Path
from typing import TextIO

from data_shards.read import BadSample
from trainer import dist
from trainer.evaluate.perturb import Perturbation, parse_perturbation
from trainer.evaluate.predict import BLACK
from trainer.evaluate.predict_inputs import PredictJob
from trainer.evaluate.predict_job import run_job
from trainer.evaluate.sampling import Sampling, SamplingError
from trainer.evaluate.submission import SubmissionHeader, read_header

DONE, FAILURE, WRONG_USAGE, STOPPED = 0, 1, 2, 75


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m trainer.evaluate predict`."""
    parser.add_argument("--model", type=Path, required=True, help="an export, or RUN_DIR/model")
    parser.add_argument(
        "--data", type=Path, required=True, help="directory of shards with tagged (test form) or general questions"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of rows {id, question, answer} to write")
    parser.add_argument("--recipe", type=Path, help="take view, template and system message from this recipe")
    parser.add_argument(
        "--max-new-tokens", type=_positive, default=512, help="longest answer (default: %(default)s tokens)"
    )
    parser.add_argument(
        "--batch-rows", type=_positive, default=256, help="questions answered at once (default: %(default)s)"
    )
    parser.add_argument("--max-frames", type=_positive, help="answer only the first frames")
    parser.add_argument("--restart", action="store_true", help="drop the answers kept from a run that was stopped")
    parser.add_argument("--header", type=Path, help="JSON file {method, team, authors, ...} to wrap the rows in")
    how = parser.add_argument_group("sampling")
    how.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    how.add_argument("--top-p", type=float, help="draw from the most likely tokens of this share (default: all)")
    how.add_argument("--seed", type=int, help="of the draws (default: 0)")
    spoil = parser.add_argument_group("to measure what the answers rest on")
    spoil.add_argument(
        "--perturb",
        metavar="HOW",
        help="black, shuffle-views, drop-view:CAM_X, or fog, dark, motion-blur, rain, each with :STRENGTH (0 to 1)",
    )
    spoil.add_argument("--black", action="store_true", help="the same as --perturb black")
    spoil.add_argument(
        "--permute-options",
        type=int,
        metavar="SEED",
        help="ask multiple choice with its options in another order; the letters answered are mapped back",
    )


def run(args: argparse.Namespace) -> int:
    """Answer every tagged or general question of a dataset, on this rank its share; returns the exit status."""
    try:
        job = _job(args)
        ranks = dist.init() if dist.world_size_from_environment() > 1 else None
        rows = run_job(job, ranks)
        _say(f"{job.out}: {rows} answers", sys.stdout)
    except (BadSample, OSError, dist.MainRankError, dist.DistError) as error:
        _say(f"predict: {error}", sys.stderr)
        return FAILURE
    except ValueError as error:
        _say(f"predict: {error}", sys.stderr)
        return WRONG_USAGE
    except KeyboardInterrupt:
        _say("predict: stopped; the answers so far are kept, and the same command goes on from there", sys.stderr)
        return STOPPED
    finally:
        dist.teardown()
    return DONE


def _job(args: argparse.Namespace) -> PredictJob:
    if args.permute_options is not None and args.permute_options < 0:
        raise SamplingError(f"--permute-options: got {args.permute_options}, expected a seed of at least 0")
    header: SubmissionHeader | None = read_header(args.header) if args.header else None
    return PredictJob(
        model=args.model,
        data=args.data,
        out=args.out,
        recipe=args.recipe,
        max_frames=args.max_frames,
        max_new_tokens=args.max_new_tokens,
        batch_rows=args.batch_rows,
        perturbation=_perturbation(args),
        sampling=_sampling(args),
        permute_options=args.permute_options,
        header=header,
        restart=args.restart,
    )


def _perturbation(args: argparse.Namespace) -> Perturbation | None:
    if not args.perturb:
        return BLACK if args.black else None
    perturbation = parse_perturbation(args.perturb)
    if args.black and perturbation != BLACK:
        raise SamplingError(f"--black: got it beside --perturb {args.perturb}, expected one of the two")
    return perturbation


def _sampling(args: argparse.Namespace) -> Sampling | None:
    if args.temperature == 0:
        for option, value in (("--top-p", args.top_p), ("--seed", args.seed)):
            if value is not None:
                raise SamplingError(f"{option}: got {value} without --temperature, whose default 0 draws nothing")
        return None
    top_p = 1.0 if args.top_p is None else args.top_p
    return Sampling(temperature=args.temperature, top_p=top_p, seed=args.seed or 0)


def _say(text: str, stream: TextIO) -> None:
    """Once for all ranks: what stops one is told to the main rank."""
    if dist.is_main_process():
        print(text, file=stream, flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected at least 1")
    return number
