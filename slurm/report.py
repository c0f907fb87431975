"""Folder of a sweep or pipeline and metrics in; a table, a picture (PNG), a page (HTML with SVG) and JSON out."""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slurm import plot
from slurm.report_page import make_charts, render_page, render_table
from slurm.report_rows import REDUCTIONS, Metric, grouped, read_rows
from slurm.typed import SlurmError, write_whole

DEFAULT_METRIC = "loss/total"


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("folder", type=Path, help="of a sweep, or of a pipeline with steps over points")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="[LABEL=]NAME",
        help=f"of metrics.jsonl or summary.json, or STEP.NAME of a step's results; may be repeated ({DEFAULT_METRIC})",
    )
    parser.add_argument(
        "--reduce",
        choices=REDUCTIONS,
        default="last",
        help="of the logged values: the last (default), mean of the last ten, min, max",
    )
    parser.add_argument(
        "--over", action="append", default=[], metavar="FIELD", help="show mean and spread over it, such as seed"
    )
    parser.add_argument("--together", action="store_true", help="all metrics in one chart")
    parser.add_argument("--step", help="only this step of a pipeline (default: all its steps over points)")
    parser.add_argument("--title", help="of the page (default: the folder's name)")
    parser.add_argument("--out", type=Path, help="directory of report.html, .png and .json (default: the folder)")


def report_command(options: argparse.Namespace) -> None:
    """`python -m slurm report`."""
    metrics = parse_metrics(options.metric or [DEFAULT_METRIC], options.reduce)
    rows = read_rows(options.folder, metrics, options.step)
    groups = grouped(rows, options.over)
    print(render_table(rows, groups))
    charts = make_charts(groups, together=options.together)
    title = options.title or f"{options.folder.absolute().name}: {', '.join(metric.label for metric in metrics)}"
    out = options.out or options.folder
    out.mkdir(parents=True, exist_ok=True)
    plot.write_png(charts, out / "report.png")
    write_whole(out / "report.html", render_page(title, rows, groups, charts))
    content = {
        "metrics": {metric.label: metric.name for metric in metrics},
        "points": [dataclasses.asdict(row) for row in rows],
        "groups": [dataclasses.asdict(group) for group in groups],
    }
    write_whole(out / "report.json", json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n")
    print(f"\n{out / 'report.html'}\n{out / 'report.png'}\n{out / 'report.json'}")


def _without_nan(tree: Any) -> Any:
    """JSON has no word for numbers that are none."""
    if isinstance(tree, dict):
        return {name: _without_nan(item) for name, item in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_nan(item) for item in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def parse_metrics(texts: Sequence[str], reduce: str) -> list[Metric]:
    """`[LABEL=]NAME` each; the label is the name where none is given.

    Raises:
        SlurmError: an empty name or label, or a label given twice.
    """
    metrics: dict[str, Metric] = {}
    for text in texts:
        label, _, name = text.partition("=") if "=" in text else (text, "", text)
        if not label or not name:
            raise SlurmError(f"--metric: got {text!r}, expected [LABEL=]NAME")
        label = label if reduce == "last" else f"{label} ({reduce})"
        if label in metrics:
            raise SlurmError(f"--metric: {label} is given twice; give one of them another LABEL=")
        metrics[label] = Metric(name=name, label=label, reduce=reduce)
    return list(metrics.values())
