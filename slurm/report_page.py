"""Rows and groups of a report in; a table for people, charts, and an HTML page that needs no other file out."""

import html
import math
from collections.abc import Sequence

from slurm import plot
from slurm.report_rows import Group, Row, Spread
from slurm.state import DONE_STATE, RUNNING_STATE

_STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse;margin-top:1em}"
    "td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left}tr.failed{background:#fde8e8}"
    "tr.running,tr.waiting{background:#fff7d6}"
)


def render_table(rows: Sequence[Row], groups: Sequence[Group]) -> str:
    """Markdown: the groups where points were put together, the points, errors below."""
    parts = [_markdown(*_group_cells(groups))] if len(groups) < len(rows) else []
    parts.append(_markdown(*_row_cells(rows)))
    errors = [f"{row.name}: {row.state}: {row.error}" for row in rows if row.error]
    return "\n\n".join([*parts, *(["\n".join(errors)] if errors else [])])


def make_charts(groups: Sequence[Group], *, together: bool) -> list[plot.Chart]:
    """A chart for each metric, or one with a line for each; the first field with several values on the x axis.

    Other fields with several values make lines of their own.
    """
    x_name, others = _axis(groups)
    x_texts = [group.values.get(x_name, "") for group in groups]
    texts = list(dict.fromkeys(x_texts))
    numeric = all(map(_is_number, texts))
    charts: dict[str, dict[str, list[plot.Point]]] = {}
    for group, text in zip(groups, x_texts, strict=True):
        lines = [f"{name.rpartition('.')[2]}={group.values[name]}" for name in others]
        x = float(text) if numeric else float(texts.index(text))
        for label, spread in group.metrics.items():
            chart = charts.setdefault("" if together else label, {})
            if spread is not None and math.isfinite(spread.mean):
                line = ", ".join([label, *lines] if together else lines)
                chart.setdefault(line, []).append(_point(x, spread, group))
    return [
        plot.Chart(x_label=x_name, y_label=label, series=series, categories=None if numeric else texts)
        for label, series in charts.items()
    ]


def _axis(groups: Sequence[Group]) -> tuple[str, list[str]]:
    """The field of the x axis, and those that make lines: one that goes side by side with that of the axis does not."""
    names = list(groups[0].values)
    varied = [name for name in names if len({group.values[name] for group in groups}) > 1] or names[:1]
    if not varied:
        return "all points", []
    x_name, *others = varied
    pairs = {name: {(group.values[x_name], group.values[name]) for group in groups} for name in others}
    count = len({group.values[x_name] for group in groups})
    return x_name, [name for name in others if len(pairs[name]) > count]


def render_page(title: str, rows: Sequence[Row], groups: Sequence[Group], charts: Sequence[plot.Chart]) -> str:
    """The page."""
    parts = [f"<h1>{html.escape(title)}</h1>", *map(plot.render_svg, charts)]
    parts.append("<p>Hollow marks: points that are not done. Bars: smallest and largest of several.</p>")
    if len(groups) < len(rows):
        head, cells = _group_cells(groups)
        parts.append(_html_table(head, cells, [DONE_STATE if group.done else RUNNING_STATE for group in groups]))
    head, cells = _row_cells(rows)
    errors = [[*line, row.error] for line, row in zip(cells, rows, strict=True)]
    parts.append(_html_table([*head, "error"], errors, [row.state.split()[0] for row in rows]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _point(x: float, spread: Spread, group: Group) -> plot.Point:
    several = spread.count > 1
    return plot.Point(
        x=x,
        y=spread.mean,
        whole=group.done,
        title=f"mean of {spread.count}" if several else group.names[0],
        low=spread.low if several else None,
        high=spread.high if several else None,
    )


def _row_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    head = [*rows[0].values, *rows[0].metrics, "step", "state"]
    cells = [
        [*row.values.values(), *(_number(value) for value in row.metrics.values()), str(row.step), row.state]
        for row in rows
    ]
    return head, cells


def _group_cells(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    head = [*groups[0].values, *groups[0].metrics, "points"]
    cells = [[*group.values.values(), *map(_spread, group.metrics.values()), str(len(group.names))] for group in groups]
    return head, cells


def _spread(spread: Spread | None) -> str:
    """`0.71 (0.69 to 0.73)`; of a single point the value alone."""
    if spread is None or spread.count == 1:
        return _number(None if spread is None else spread.mean)
    return f"{_number(spread.mean)} ({_number(spread.low)} to {_number(spread.high)})"


def _markdown(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    head, *cells = ([text.replace("|", "\\|") for text in line] for line in [head, *cells])
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _html_table(head: Sequence[str], cells: Sequence[Sequence[str]], classes: Sequence[str]) -> str:
    top = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join(
        f'<tr class="{html.escape(kind)}">' + "".join(f"<td>{html.escape(text)}</td>" for text in line) + "</tr>"
        for line, kind in zip(cells, classes, strict=True)
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
