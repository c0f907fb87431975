"""Numbers by group and series in, inline SVG out: bars that take their colours from the page's style."""

from collections.abc import Mapping, Sequence

from trainer.evaluate.report.markup import text

_WIDTH = 720
_LABEL, _VALUE = 230, 52
_BAR, _GAP, _GROUP_GAP = 13, 3, 14
_COLUMNS_HEIGHT = 220


def series_class(number: int) -> str:
    """Style class of a series; the colours come round after eight. -1 is the reference."""
    return "ref" if number < 0 else f"s{number % 8}"


def legend(names: Sequence[str], *, first: int = 0) -> str:
    """Which colour is which series."""
    items = "".join(
        f'<li><i class="{series_class(number + first)}"></i>{text(name, 60)}</li>' for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def bars(groups: Mapping[str, Sequence[float]], *, title: str) -> str:
    """Horizontal bars: for each group one of every series, values in 0..1."""
    scale = _WIDTH - _LABEL - _VALUE
    parts, y = [], 4
    for label, values in groups.items():
        height = len(values) * (_BAR + _GAP) - _GAP
        parts.append(f'<text class="label" x="{_LABEL - 10}" y="{y + height / 2 + 4:.0f}">{text(label, 40)}</text>')
        for number, value in enumerate(values):
            top = y + number * (_BAR + _GAP)
            length = max(1.0, value * scale)
            parts.append(f'<rect class="track" x="{_LABEL}" y="{top}" width="{scale}" height="{_BAR}"/>')
            parts.append(
                f'<rect class="{series_class(number)}" x="{_LABEL}" y="{top}" width="{length:.1f}" height="{_BAR}"/>'
                f'<text class="value" x="{_LABEL + scale + 8}" y="{top + _BAR - 2}">{value:.3f}</text>'
            )
        y += height + _GROUP_GAP
    return _svg("".join(parts), y, title)


def columns(groups: Mapping[str, Sequence[float]], *, title: str) -> str:
    """Upright bars side by side: for each group one of the reference and one of every series, values in 0..1.

    The largest fills the height.
    """
    top = max((value for values in groups.values() for value in values), default=0.0) or 1.0
    parts, step = [], _WIDTH / max(1, len(groups))
    for place, (label, values) in enumerate(groups.items()):
        width = min(26.0, (step - 12) / max(1, len(values)))
        left = place * step + (step - width * len(values)) / 2
        for number, value in enumerate(values):
            height = value / top * (_COLUMNS_HEIGHT - 50)
            x = left + number * width
            parts.append(
                f'<rect class="{series_class(number - 1)}" x="{x:.1f}" y="{_COLUMNS_HEIGHT - 26 - height:.1f}" '
                f'width="{width - 2:.1f}" height="{height:.1f}"><title>{value:.3f}</title></rect>'
            )
            if value >= 0.005 and width >= 16:
                parts.append(
                    f'<text class="tick" x="{x + width / 2 - 1:.1f}" y="{_COLUMNS_HEIGHT - 31 - height:.1f}">'
                    f"{100 * value:.0f}</text>"
                )
        parts.append(
            f'<text class="tick" x="{(place + 0.5) * step:.1f}" y="{_COLUMNS_HEIGHT - 8}">{text(label, 30)}</text>'
        )
    axis = f'<line class="axis" x1="0" y1="{_COLUMNS_HEIGHT - 26}" x2="{_WIDTH}" y2="{_COLUMNS_HEIGHT - 26}"/>'
    return _svg("".join(parts) + axis, _COLUMNS_HEIGHT, title)


def _svg(content: str, height: float, title: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{text(title)}">{content}</svg>'
    )
