"""Arguments of `inspect` in, printed problems or a summary out, and a page where one is asked for."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_shards.atomic import write_atomically
from data_shards.commands import UsageError
from data_shards.entries import ShardError
from data_shards.index import DatasetIndex, load_index
from data_shards.inspect_page import inspect_page, spread_places
from data_shards.lint import LintError, lint
from data_shards.read import read_frame
from data_shards.summary import row_text, summarise, tile_row
from data_shards.view_layout import ViewLayout

_SHOWN = 50


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the subcommand's parser."""
    parser.add_argument("directory", type=Path)
    parser.add_argument("--verify", action="store_true", help="read every byte and compare the checksums")
    parser.add_argument("--html", type=Path, help="write a page with views, points and questions")
    parser.add_argument("--frames", type=int, default=12, help="frames on the page (default: 12)")
    limits = parser.add_argument_group("lengths and fill of packs")
    limits.add_argument("--tokenizer", type=Path, help="directory of a tokenizer: counts tokens and fill")
    limits.add_argument("--template", choices=("internlm2-chat", "chatml"), default="internlm2-chat")
    limits.add_argument("--view-mode", choices=("canvas", "views"), default="canvas", help="default: canvas")
    limits.add_argument("--tile-size", type=int, default=448, help="pixels (default: 448)")
    limits.add_argument("--tiles-per-image", type=int, default=12, help="at most, thumbnail aside (default: 12)")
    limits.add_argument("--tokens-per-tile", type=int, default=256, help="default: 256")
    limits.add_argument("--max-tokens", type=int, default=16384, help="of a pack (default: 16384)")
    limits.add_argument("--max-tiles", type=int, default=48, help="of a pack (default: 48)")
    limits.add_argument("--questions-per-visit", type=int, default=32, help="default: 32")
    parser.set_defaults(command=run_inspect)


def run_inspect(options: argparse.Namespace) -> None:
    """Check, then summarise.

    Raises:
        LintError: something is wrong with the shards or their records; all of it is printed first.
        ShardError: no usable directory.
        UsageError: limits or a layout that do not fit the data.
    """
    _refuse(options, lint(options.directory, verify=options.verify))
    text, unusable = summarise(options.directory)
    _refuse(options, unusable)
    text = "\n".join([text, *map(row_text, _more_rows(options))])
    print(text)
    if options.html is not None:
        _write_page(options, text)


def _refuse(options: argparse.Namespace, problems: Sequence[str]) -> None:
    for problem in problems[:_SHOWN]:
        print(f"problem: {problem}", file=sys.stderr)
    if problems:
        raise LintError(f"{options.directory}: {len(problems)} problems; copy or write the files named above again")


def _more_rows(options: argparse.Namespace) -> list[tuple[str, str]]:
    index = load_index(options.directory)
    try:
        layout = ViewLayout(mode=options.view_mode, tile_size=options.tile_size, max_tiles=options.tiles_per_image)
        return [tile_row(index, layout), *_fill_rows(options, index, layout)]
    except ShardError:
        raise
    except ValueError as error:  # a layout, a text or limits for which there is no plan
        raise UsageError(str(error)) from error


def _fill_rows(options: argparse.Namespace, index: DatasetIndex, layout: ViewLayout) -> list[tuple[str, str]]:
    if options.tokenizer is None:
        return []
    from data_shards.chat import TEMPLATES  # brings transformers
    from data_shards.fill_summary import FillSettings, fill_rows
    from data_shards.mixture import PackLimits

    settings = FillSettings(
        tokenizer=options.tokenizer,
        template=TEMPLATES[options.template](),
        layout=layout,
        tokens_per_tile=options.tokens_per_tile,
        limits=PackLimits(max_tokens=options.max_tokens, max_tiles=options.max_tiles),
        questions_per_visit=options.questions_per_visit,
    )
    return fill_rows(index, settings)


def _write_page(options: argparse.Namespace, summary: str) -> None:
    index = load_index(options.directory)
    frames = (read_frame(index, i) for i in spread_places(len(index), max(1, options.frames)))
    page = inspect_page(options.directory.resolve().name, summary, frames)
    options.html.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.html, page.encode())
    print(f"{options.html}: a page of {options.directory}")
