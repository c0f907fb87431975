"""Arguments of `python -m data_shards` in, an exit status out: 0 done, 1 failure, 2 wrong usage, 75 stopped."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path

from data_shards.atomic import write_atomically
from data_shards.commands import SYNTHETIC_SOURCES, UsageError, write_drivelm, write_synthetic
from data_shards.entries import ShardError
from data_shards.index import load_index, rebuild_index
from data_shards.read import BadSample, read_frame
from data_shards.schema import SchemaError
from data_shards.sources.drivelm import SelectionError, SourceError, references_json
from data_shards.summary import summarise

FAILURE, WRONG_USAGE, STOPPED = 1, 2, 75


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand; problems go to standard error as one message, never as a traceback."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except (BadSample, OSError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILURE
    except (UsageError, ShardError, SchemaError, SourceError, SelectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE
    except BrokenExecutor as error:
        print(f"failed: a writing process died ({error}); was memory short? try --workers 1", file=sys.stderr)
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
    for name, command, what in (
        ("index", _index, "index a directory of tars anew"),
        ("inspect", _inspect, "print what a directory of shards holds"),
    ):
        reader = commands.add_parser(name, help=what)
        reader.add_argument("directory", type=Path)
        reader.set_defaults(command=command)
    references = commands.add_parser(
        "references", help="write the tagged questions as DriveLM's test file, to score with"
    )
    references.add_argument("directory", type=Path)
    references.add_argument("--out", type=Path, required=True, help="JSON file to write")
    references.set_defaults(command=_references)
    return parser


def _add_drivelm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", type=Path, required=True, help="DriveLM JSON, training or test form")
    parser.add_argument("--images", type=Path, required=True, help="folder that holds nuScenes' 'samples'")
    parser.add_argument("--form", choices=("raw", "test", "both"), default="both", help="questions (default: both)")
    parser.add_argument("--scenes", type=_names, default=(), help="only these scenes, separated by commas")
    parser.add_argument("--skip-missing", action="store_true", help="leave out frames without all six images")
    parser.set_defaults(command=write_drivelm)
    _add_writing(parser)


def _add_synthetic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", type=_positive, required=True, help="number of scenes")
    parser.add_argument("--frames-per-scene", type=_positive, default=4, help="key frames a scene (default: 4)")
    parser.add_argument("--image-width", type=_positive, default=1600, help="pixels, 16:9 (default: 1600)")
    parser.add_argument("--family", choices=tuple(SYNTHETIC_SOURCES), default="driving")
    parser.set_defaults(command=write_synthetic)
    _add_writing(parser)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="shard directory, or the parent of train and val")
    parser.add_argument("--val-fraction", type=float, help="share of scenes for OUT/val; the others go to OUT/train")
    parser.add_argument("--seed", type=_seed, default=0, help="of the split, the options and the world (default: 0)")
    parser.add_argument("--samples-per-shard", type=_positive, default=200, help="frames a shard (default: 200)")
    parser.add_argument("--workers", type=_positive, default=2, help="processes that write (default: 2)")


def _index(options: argparse.Namespace) -> None:
    info = rebuild_index(options.directory)
    print(f"{options.directory}: {info.num_samples} samples in {len(info.shards)} shards")


def _inspect(options: argparse.Namespace) -> None:
    print(summarise(options.directory))


def _references(options: argparse.Namespace) -> None:
    index = load_index(options.directory)
    frames = (read_frame(index, position, with_images=False) for position in range(len(index)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, json.dumps(references_json(frames), ensure_ascii=False, indent=1).encode())
    print(f"{options.out}: references of {options.directory}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"got {number}, expected at least 0")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {number}, expected at least 1")
    return number
