"""Series of points in, line charts out: as SVG text, and drawn with Pillow as PNG from the same geometry."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 90, 30, 30, 60
LEGEND = 150
"""Pixels on the right for the names of lines, where they have some."""
CHARACTER = 8
"""Pixels of a letter, with room to spare."""
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#0a7ea4", "#bf3989", "#57606a")
LOG_RATIO = 50
"""From this ratio of largest to smallest value on, the x axis is logarithmic."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point: where, whether it is final, what it is; one that stands for several has a bar from `low` to `high`."""

    x: float
    y: float
    whole: bool
    title: str
    low: float | None = None
    high: float | None = None

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest value that is drawn."""
        return (self.y if self.low is None else self.low, self.y if self.high is None else self.high)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What is drawn.

    Attributes:
        x_label, y_label: of the axes.
        series: points by name of their line.
        categories: texts of x = 0, 1, 2, ...; None for a numeric axis.
    """

    x_label: str
    y_label: str
    series: Mapping[str, Sequence[Point]]
    categories: Sequence[str] | None

    @property
    def right(self) -> int:
        """Where the axes end, in pixels."""
        return WIDTH - RIGHT - (LEGEND if any(self.series) else 0)


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Values to pixels, with the values that are marked."""

    low: float
    high: float
    first: int
    last: int
    log: bool
    ticks: Sequence[tuple[float, str]]

    def pixel(self, value: float) -> float:
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.first + (self.last - self.first) * (at - low) / (high - low)


def render_svg(chart: Chart) -> str:
    """The chart as an SVG element."""
    x_axis, y_axis = _axes(chart)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    ]
    parts.append('<g font-family="sans-serif" font-size="13" fill="#24292f">')
    for value, text in x_axis.ticks:
        x = x_axis.pixel(value)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#e4e7eb"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{html.escape(text)}</text>')
    for value, text in y_axis.ticks:
        y = y_axis.pixel(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{chart.right}" stroke="#e4e7eb"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{html.escape(text)}</text>')
    middle = (LEFT + chart.right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 14}" text-anchor="middle">{html.escape(chart.x_label)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 12}">{html.escape(chart.y_label)}</text>')
    for i, (name, points) in enumerate(_sorted_series(chart)):
        colour = COLOURS[i % len(COLOURS)]
        line = " ".join(f"{x_axis.pixel(p.x):.1f},{y_axis.pixel(p.y):.1f}" for p in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for p in points:
            low, high = map(y_axis.pixel, p.span)
            if low != high:
                parts.append(f'<path d="M{x_axis.pixel(p.x):.1f} {low:.1f}V{high:.1f}" stroke="{colour}"/>')
            parts.append(
                f'<circle cx="{x_axis.pixel(p.x):.1f}" cy="{y_axis.pixel(p.y):.1f}" r="5" stroke="{colour}" '
                f'stroke-width="2" fill="{colour if p.whole else "#ffffff"}"><title>'
                f"{html.escape(p.title)}: {p.y:.6g}</title></circle>"
            )
        if name:
            y = TOP + 8 + 18 * i
            parts.append(f'<text x="{chart.right + 12}" y="{y}" fill="{colour}">{html.escape(name)}</text>')
    return "".join([*parts, "</g></svg>"])


def write_png(charts: Sequence[Chart], path: Path) -> None:
    """The same charts as a picture, one below the other; whole or not there."""
    image = Image.new("RGB", (WIDTH, HEIGHT * len(charts)), "white")
    for number, chart in enumerate(charts):
        image.paste(_draw(chart), (0, HEIGHT * number))
    temporary = path.with_name(f".{path.name}.partial")
    image.save(temporary, format="PNG")
    temporary.replace(path)


def _draw(chart: Chart) -> Image.Image:
    x_axis, y_axis = _axes(chart)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for value, text in x_axis.ticks:
        x = x_axis.pixel(value)
        draw.line([(x, TOP), (x, HEIGHT - BOTTOM)], fill="#e4e7eb")
        draw.text((x, HEIGHT - BOTTOM + 8), text, fill="#24292f", font=font, anchor="mt")
    for value, text in y_axis.ticks:
        y = y_axis.pixel(value)
        draw.line([(LEFT, y), (chart.right, y)], fill="#e4e7eb")
        draw.text((LEFT - 8, y), text, fill="#24292f", font=font, anchor="rm")
    draw.text(((LEFT + chart.right) / 2, HEIGHT - 14), chart.x_label, fill="#24292f", font=font, anchor="ms")
    draw.text((LEFT, TOP - 12), chart.y_label, fill="#24292f", font=font, anchor="ls")
    for i, (name, points) in enumerate(_sorted_series(chart)):
        colour = COLOURS[i % len(COLOURS)]
        pixels = [(x_axis.pixel(p.x), y_axis.pixel(p.y)) for p in points]
        draw.line(pixels, fill=colour, width=2)
        for p, (x, y) in zip(points, pixels, strict=True):
            draw.line([(x, y_axis.pixel(end)) for end in p.span], fill=colour)
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline=colour, width=2, fill=colour if p.whole else "white")
        if name:
            draw.text((chart.right + 12, TOP + 8 + 18 * i), name, fill=colour, font=font, anchor="ls")
    return image


def _sorted_series(chart: Chart) -> list[tuple[str, list[Point]]]:
    return [(name, sorted(points, key=lambda p: p.x)) for name, points in chart.series.items()]


def _axes(chart: Chart) -> tuple[_Axis, _Axis]:
    points = [point for line in chart.series.values() for point in line]
    if chart.categories is not None:
        room = (chart.right - LEFT) // (CHARACTER * max(1, len(chart.categories)))
        ticks = [(float(i), _shortened(text, room)) for i, text in enumerate(chart.categories)]
        x_axis = _Axis(low=-0.5, high=len(ticks) - 0.5, first=LEFT, last=chart.right, log=False, ticks=ticks)
    else:
        x_axis = _numeric_axis([p.x for p in points], LEFT, chart.right, may_be_log=True)
    return x_axis, _numeric_axis([end for p in points for end in p.span], HEIGHT - BOTTOM, TOP, may_be_log=False)


def _shortened(text: str, room: int) -> str:
    """At most `room` characters: names of categories do not run into each other."""
    return text if len(text) <= room else text[: max(room - 2, 1)] + ".."


def _numeric_axis(values: Sequence[float], first: int, last: int, *, may_be_log: bool) -> _Axis:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if may_be_log and low > 0 and high / low >= LOG_RATIO:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [(10.0**power, f"{10.0**power:g}") for power in powers]
        return _Axis(low=ticks[0][0], high=ticks[-1][0], first=first, last=last, log=True, ticks=ticks)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = _round_step((high - low) / 5)
    begin, end = math.floor(low / step), math.ceil(high / step)
    ticks = [(i * step, f"{i * step:.6g}") for i in range(begin, end + 1)]
    return _Axis(low=begin * step, high=end * step, first=first, last=last, log=False, ticks=ticks)


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
