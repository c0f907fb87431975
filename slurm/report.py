"""A sweep's folder and a metric in, a table, a picture (PNG), a page (HTML with SVG) and the rows as JSON out."""

import argparse
import dataclasses
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm import plot
from slurm.progress import read_metrics, read_summary
from slurm.spec import JobSpec, Work, load_spec
from slurm.state import DONE_STATE, ElementState, element_states
from slurm.typed import SlurmError, nearest, write_whole

REDUCTIONS = ("last", "mean10", "min", "max")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A point of a sweep.

    Attributes:
        name, values: of it.
        state: done, running, waiting, failed, ...
        step: last logged.
        metric: None where it has not been logged.
        error: why it failed, or why it waits.
    """

    name: str
    values: dict[str, str]
    state: str
    step: int
    metric: float | None
    error: str


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Options of `report`."""
    parser.add_argument("folder", type=Path, help="of the sweep")
    parser.add_argument("--metric", default="loss/total", help="of metrics.jsonl or summary.json (loss/total)")
    parser.add_argument(
        "--reduce",
        choices=REDUCTIONS,
        default="last",
        help="of the logged values: the last (default), mean of the last ten, min, max",
    )
    parser.add_argument("--out", type=Path, help="directory of report.html, .png and .json (default: the sweep's)")


def report_command(options: argparse.Namespace) -> None:
    """`python -m slurm report`."""
    spec = load_spec(options.folder)
    if not all(work.values for work in spec.works):
        raise SlurmError(f"{options.folder}: is no sweep; `python -m slurm status` shows jobs and pipelines")
    rows = sweep_rows(options.folder, spec, options.metric, options.reduce)
    label = options.metric if options.reduce == "last" else f"{options.metric} ({options.reduce})"
    table = render_table(rows, label)
    print(table)
    out = options.out or options.folder
    out.mkdir(parents=True, exist_ok=True)
    chart = make_chart(rows, label)
    plot.write_png(chart, out / "report.png")
    write_whole(out / "report.html", render_page(spec.name, rows, label, chart))
    write_whole(out / "report.json", json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    print(f"\n{out / 'report.html'}\n{out / 'report.png'}\n{out / 'report.json'}")


def sweep_rows(folder: Path, spec: JobSpec, metric: str, reduce: str) -> list[Row]:
    """What became of each point.

    Raises:
        SlurmError: no point has logged this metric, though some have logged others.
    """
    states = element_states(folder, spec)
    rows, known = [], set[str]()
    for work, state in zip(spec.works, states, strict=True):
        series, step, names = metric_values(work, metric)
        known |= names
        rows.append(
            Row(
                name=work.name,
                values=dict(work.values),
                state=state.state,
                step=step,
                metric=reduced(series, reduce),
                error=_error(state),
            )
        )
    if known and metric not in known:
        raise SlurmError(f"--metric: got {metric!r}; {nearest(metric, sorted(known))}")
    return rows


def metric_values(work: Work, metric: str) -> tuple[list[float], int, set[str]]:
    """Logged values of a metric (a summary's single one), the last logged step, and the names of all metrics."""
    if work.run_dir is None:
        return [], 0, set()
    entries, summary = read_metrics(work.run_dir), _numbers(read_summary(work.run_dir))
    names = set(summary) | {name for entry in entries for name in entry if name not in ("step", "time")}
    series = [entry[metric] for entry in entries if isinstance(entry.get(metric), int | float)]
    if not series and metric in summary:
        series = [summary[metric]]
    return series, int(entries[-1]["step"]) if entries else 0, names


def reduced(series: Sequence[float], how: str) -> float | None:
    """One number of a series; None of an empty one."""
    if not series:
        return None
    if how == "mean10":
        return sum(series[-10:]) / len(series[-10:])
    return {"last": series[-1], "min": min(series), "max": max(series)}[how]


def render_table(rows: Sequence[Row], label: str) -> str:
    """Rows as text, errors below."""
    names = list(rows[0].values)
    cells = [[*names, label, "step", "state"]]
    cells += [[*row.values.values(), _number(row.metric), str(row.step), row.state] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    errors = [f"{row.name}: {row.state}: {row.error}" for row in rows if row.error]
    return "\n".join([*lines, *([""] if errors else []), *errors])


def make_chart(rows: Sequence[Row], label: str) -> plot.Chart:
    """The first swept field with several values on the x axis, the others as lines."""
    names = list(rows[0].values)
    varied = [name for name in names if len({row.values[name] for row in rows}) > 1] or names
    x_name, others = varied[0], varied[1:]
    texts = list(dict.fromkeys(row.values[x_name] for row in rows))
    numeric = all(_is_number(text) for text in texts)
    series: dict[str, list[plot.Point]] = {}
    for row in rows:
        line = ", ".join(f"{name.rpartition('.')[2]}={row.values[name]}" for name in others)
        x = float(row.values[x_name]) if numeric else float(texts.index(row.values[x_name]))
        if row.metric is not None and math.isfinite(row.metric):
            done = row.state == DONE_STATE
            series.setdefault(line, []).append(plot.Point(x=x, y=row.metric, whole=done, title=row.name))
    return plot.Chart(x_label=x_name, y_label=label, series=series, categories=None if numeric else texts)


def render_page(name: str, rows: Sequence[Row], label: str, chart: plot.Chart) -> str:
    """A page that needs no other file."""
    names = list(rows[0].values)
    head = "".join(f"<th>{html.escape(text)}</th>" for text in [*names, label, "step", "state", "error"])
    body = "".join(
        f'<tr class="{html.escape(row.state.split()[0])}">'
        + "".join(
            f"<td>{html.escape(text)}</td>" for text in [*row.values.values(), _number(row.metric), str(row.step)]
        )
        + f"<td>{html.escape(row.state)}</td><td>{html.escape(row.error)}</td></tr>"
        for row in rows
    )
    title = html.escape(f"{name}: {label}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>'
        "body{font:15px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse;margin-top:1em}"
        "td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left}tr.failed{background:#fde8e8}"
        "tr.running,tr.waiting{background:#fff7d6}</style>"
        f"<h1>{title}</h1>{plot.render_svg(chart)}<p>Hollow marks: points that are not done.</p>"
        f"<table><tr>{head}</tr>{body}</table></html>\n"
    )


def _error(state: ElementState) -> str:
    return "" if state.state in (DONE_STATE, "running") else state.reason


def _numbers(tree: Any, place: str = "") -> dict[str, float]:
    """Numbers of nested JSON by dotted name."""
    if isinstance(tree, dict):
        return {n: v for name, item in tree.items() for n, v in _numbers(item, f"{place}.{name}".lstrip(".")).items()}
    return {place: float(tree)} if isinstance(tree, int | float) and not isinstance(tree, bool) else {}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
