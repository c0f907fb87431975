"""Arguments of `python -m models.convert` in, an exit status out: 0 done, 1 failure, 2 wrong usage or bad input."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from models.convert.converter import convert
from models.convert.errors import ConvertError
from models.safetensors_format import WeightsFileError

FAILURE, WRONG_USAGE = 1, 2


def main(arguments: Sequence[str]) -> int:
    """Convert one checkpoint; problems go to standard error as one message, never as a traceback.

    SIGINT and SIGTERM stop it, and what it has written so far is removed.
    """
    options = _parser().parse_args(arguments)
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        remarks = convert(options.source, options.out_dir, to=options.to, allow_pickle=options.allow_pickle)
    except (ConvertError, WeightsFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USAGE
    except OSError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return FAILURE
    finally:
        signal.signal(signal.SIGTERM, former)
    for remark in remarks:
        print(f"remark: {remark}")
    print(f"{options.out_dir}: written in {options.to} layout")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.convert",
        description="Convert InternViT, InternLM2 and whole InternVL models between OpenGVLab's layout and that of "
        "transformers, and CLIP to a student tower, tensor by tensor.",
    )
    parser.add_argument("source", metavar="SRC", type=Path, help="a model's directory, or its safetensors file")
    parser.add_argument("out_dir", metavar="DST", type=Path, help="directory to write; must not exist or be empty")
    parser.add_argument(
        "--to",
        choices=("transformers", "opengvlab"),
        default="transformers",
        help="layout to write (default: transformers)",
    )
    parser.add_argument("--allow-pickle", action="store_true", help="read .bin files too; only from who you trust")
    return parser
