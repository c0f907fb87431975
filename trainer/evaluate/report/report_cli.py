"""Options of `python -m trainer.evaluate report` in, one HTML file and an exit status out."""

import argparse
import sys
from pathlib import Path

from data_shards.atomic import write_atomically
from data_shards.index import DatasetIndex, load_index
from data_shards.read import read_frame
from data_shards.schema import RawFrame
from trainer.evaluate.judge_cli import add_judge, chosen_judge
from trainer.evaluate.report.page import FindFrame, make_page
from trainer.evaluate.report.systems import make_system
from trainer.evaluate.score_inputs import named_files, read_predictions
from trainer.evaluate.submission import read_references, reference_questions


class ReportError(ValueError):
    """Files a report cannot be made of; the message names the option, got, expected and the fix."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m trainer.evaluate report`."""
    parser.add_argument(
        "--predictions",
        nargs="+",
        required=True,
        metavar="[NAME=]FILE",
        help="JSON rows {id, question, answer}, plain or wrapped; several are set side by side",
    )
    parser.add_argument("--references", type=Path, required=True, help="DriveLM's test form, JSON")
    parser.add_argument("--data", type=Path, required=True, help="directory of shards the pictures come from")
    parser.add_argument("--out", type=Path, required=True, help="HTML file to write")
    parser.add_argument(
        "--max-frames", type=int, default=200, help="frames of the gallery, evenly spaced (default: %(default)s)"
    )
    parser.add_argument("--title", default="Driving questions, answered", help="heading (default: %(default)r)")
    add_judge(parser)


def run(args: argparse.Namespace) -> int:
    """Write the report; returns 0.

    Raises:
        ReportError, SubmissionError, JudgeError, ShardError: files or options that are not what they should be.
        OSError: the report cannot be written.
    """
    if args.max_frames < 1:
        raise ReportError(f"--max-frames: got {args.max_frames}, expected at least 1")
    files = named_files(args.predictions, "--predictions")
    judge = chosen_judge(args)
    references = read_references(args.references)
    if next(iter(reference_questions(references)), None) is None:
        raise ReportError(f"{args.references}: got no question, expected DriveLM's test form")
    index = load_index(args.data)
    read = [(name, *read_predictions(path)) for name, path in files.items()]
    systems = [make_system(name, rows, references, judge, found) for name, rows, found in read]
    page = make_page(systems, frame_finder(index), max_frames=args.max_frames, judge=args.judge, title=args.title)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, page.html)
    for problem in page.problems:
        print(problem, file=sys.stderr)
    print(f"{args.out}: {page.num_frames} of {page.num_all_frames} frames, {len(page.html) / 1e6:.1f} MB")
    return 0


def frame_finder(index: DatasetIndex) -> FindFrame:
    """Reads frames of a dataset by key."""
    positions = {entry.key: position for position, entry in enumerate(index.samples)}

    def find(key: str) -> RawFrame | None:
        return read_frame(index, positions[key]) if key in positions else None

    return find
