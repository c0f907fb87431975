"""Arguments of `python -m data_shards` in, an exit status out: 0 done, 1 failure, 2 wrong usage, 75 stopped."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path

from data_shards.asked import reference_rows
from data_shards.atomic import write_atomically
from data_shards.commands import SYNTHETIC_SOURCES, UsageError, write_drivelm, write_synthetic
from data_shards.conversation_commands import write_conversations
from data_shards.decode import ImageError
from data_shards.entries import ShardError
from data_shards.index import load_index
from data_shards.inspect_command import add_inspect
from data_shards.lint import LintError
from data_shards.read import BadSample, read_frame
from data_shards.rebuild import rebuild_index
from data_shards.schema import SchemaError
from data_shards.sources.drivelm import SelectionError, SourceError, references_json
from data_shards.sources.synthetic.cities import CITIES, DEFAULT_CITY

FAILURE, WRONG_USAGE, STOPPED = 1, 2, 75
_MOST_PROCESSES = 16
_PROGRAMS = {"teacher-targets": "trainer.targets"}
"""Commands that need models: programs of another package, which this one starts and never imports."""


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand; problems go to standard error as one message, never as a traceback."""
    if arguments and arguments[0] in _PROGRAMS:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", _PROGRAMS[arguments[0]], *arguments[1:]])
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except (BadSample, LintError, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILURE
    except (UsageError, ShardError, SchemaError, SourceError, SelectionError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE
    except BrokenExecutor as error:
        print(f"failed: a writing process died ({error}); was memory short? try --processes 1", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print("stopped; whole shards are kept, and the same command goes on from there", file=sys.stderr)
        return STOPPED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_shards", description="Make, index and look at tar shards.")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_drivelm(commands.add_parser("drivelm", help="convert DriveLM annotations and nuScenes images"))
    _add_synthetic(commands.add_parser("synthetic", help="render the synthetic driving world"))
    _add_conversations(
        commands.add_parser("conversations", help="convert LLaVA, ShareGPT or InternVL rows, or third-party tars")
    )
    index = commands.add_parser("index", help="index a directory of tars anew")
    index.add_argument("directory", type=Path)
    index.set_defaults(command=_index)
    add_inspect(commands.add_parser("inspect", help="check shards and show what they hold"))
    references = commands.add_parser(
        "references", help="write the tagged or general questions with their answers, to score with"
    )
    references.add_argument("directory", type=Path)
    references.add_argument("--out", type=Path, required=True, help="JSON file to write")
    references.add_argument(
        "--form",
        choices=("drivelm", "rows"),
        default="drivelm",
        help="drivelm: tagged questions as DriveLM's test file; rows: these and general ones (default: %(default)s)",
    )
    references.set_defaults(command=_references)
    commands.add_parser("teacher-targets", help="write what a teacher makes of the tiles, for distillation")
    return parser


def _add_drivelm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", type=Path, required=True, help="DriveLM JSON, training or test form")
    parser.add_argument("--images", type=Path, required=True, help="folder that holds nuScenes' 'samples'")
    parser.add_argument("--form", choices=("raw", "test", "both"), default="both", help="questions (default: both)")
    parser.add_argument("--scenes", type=_names, default=(), help="only these scenes, separated by commas")
    parser.add_argument("--skip-missing", action="store_true", help="leave out frames without all six images")
    parser.set_defaults(command=write_drivelm)
    _add_view_size(parser)
    _add_writing(parser)


def _add_synthetic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", type=_positive, required=True, help="number of scenes")
    parser.add_argument("--frames-per-scene", type=_positive, default=4, help="key frames a scene (default: 4)")
    parser.add_argument("--image-width", type=_positive, default=1600, help="pixels, 16:9 (default: 1600)")
    parser.add_argument("--family", choices=tuple(SYNTHETIC_SOURCES), default="driving")
    parser.add_argument(
        "--form",
        choices=("both", "test", "positions"),
        default="both",
        help="all questions (default), the tagged test form alone, or of one view where each object in it is",
    )
    parser.add_argument("--city", choices=tuple(CITIES), default=DEFAULT_CITY, help="look (default: %(default)s)")
    parser.set_defaults(command=write_synthetic)
    _add_view_size(parser)
    _add_writing(parser)


def _add_conversations(parser: argparse.ArgumentParser) -> None:
    rows = parser.add_mutually_exclusive_group(required=True)
    rows.add_argument("--annotations", type=Path, help="JSONL file or JSON list of conversations")
    rows.add_argument("--tars", type=Path, help="folder of webdataset tars of another form")
    parser.add_argument("--images", type=Path, help="folder below which the image paths of the rows lie")
    parser.add_argument("--image-field", type=_names, help="with --tars: suffixes of the images, such as jpg,png")
    parser.add_argument("--text-field", default="json", help="with --tars: suffix of the text (default: json)")
    parser.add_argument("--caption-key", help="with --tars: field of the JSON that holds a caption")
    parser.add_argument("--question", default="Describe the image.", help="with --tars: asked where there is a caption")
    parser.add_argument("--separate-turns", action="store_true", help="make each turn a question of its own")
    parser.add_argument("--move-placeholders", action="store_true", help="show images first that stand inside a text")
    parser.add_argument("--drop-system", action="store_true", help="leave system messages out")
    parser.add_argument("--max-side", type=_positive, help="longest side of a stored image in pixels")
    parser.add_argument("--max-bad-fraction", type=float, default=0.001, help="rows left out at most (default: 0.001)")
    parser.add_argument("--source", help="name of the dataset (default: that of the file or folder)")
    parser.add_argument("--licence", default="unknown", help="terms of use, kept in dataset.json")
    parser.set_defaults(command=write_conversations)
    _add_writing(parser)


def _add_view_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--view-size", type=_size, help="store the camera views at this size, such as 896x448, as JPEGs of quality 95"
    )


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="shard directory, or the parent of train and val")
    parser.add_argument("--val-fraction", type=float, help="share of scenes for OUT/val; the others go to OUT/train")
    parser.add_argument("--seed", type=_seed, default=0, help="of the split, the options and the world (default: 0)")
    parser.add_argument("--samples-per-shard", type=_positive, default=200, help="frames a shard (default: 200)")
    processes = min(_MOST_PROCESSES, len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--processes",
        "--workers",
        dest="workers",
        type=_positive,
        default=processes,
        help=f"that write; the shards do not depend on their number (default: {processes}, one a core)",
    )


def _index(options: argparse.Namespace) -> None:
    info = rebuild_index(options.directory)
    print(f"{options.directory}: {info.num_samples} samples in {len(info.shards)} shards")


def _references(options: argparse.Namespace) -> None:
    index = load_index(options.directory)
    frames = (read_frame(index, position, with_images=False) for position in range(len(index)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = references_json(frames) if options.form == "drivelm" else reference_rows(frames)
    write_atomically(options.out, json.dumps(content, ensure_ascii=False, indent=1).encode())
    print(f"{options.out}: references of {options.directory}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"got {number}, expected at least 0")
    return number


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected <width>x<height> in pixels, such as 896x448")
    return int(width), int(height)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected at least 1")
    return number
