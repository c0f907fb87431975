"""DriveLM's object tags in a text come in; the same text with its points in another coordinate system goes out.

Spaces:
    pixels: `<c1,CAM_BACK,1088.3,497.5>`, pixels of the 1600x900 camera image, as DriveLM writes them.
    canvas: `<c1,CAM_BACK,[560,776]>`, 0 to 1000 over the 3x2 canvas of all six views (Mini-InternVL's DriveLM recipe).
    view: `<c1,CAM_BACK,[680,553]>`, 0 to 1000 over the camera's own image.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from data_shards.schema import CAMERAS, CANVAS_GRID, VIEW_SIZE

_COLUMNS, _ROWS = CANVAS_GRID
_UNITS = 1000
_SHOWN = 3

# What a reader takes for a tag, well-formed or not: it opens with c and a number, or it names a camera. It ends at `>`,
# or, where that is missing, before the next `<` or the end of the line.
_TAG_LIKE = re.compile(r"<(?:\s*c\s*\d|(?=[^<>\n]*CAM_))[^<>\n]*>?", re.IGNORECASE)
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_TAG = re.compile(rf"<\s*c\s*(\d+)\s*,\s*([A-Z_]+)\s*,\s*(\[?)\s*{_NUMBER}\s*,\s*{_NUMBER}\s*(\]?)\s*>")
_POINT = re.compile(rf"<c\d+,[A-Z_]+,\[?({_NUMBER},{_NUMBER})\]?>")


class CoordinateError(ValueError):
    """A point or a tag that cannot be rewritten; the message names it, what was expected and the fix."""


@dataclass(frozen=True, kw_only=True)
class CoordinateFormat:
    """How points are written for the model.

    Attributes:
        space: `pixels`, `canvas` or `view`, as above.
        decimals: digits behind the point. Rounding costs at most 2.4 and 0.9 pixels in x and y (`canvas`) or 0.8 and
            0.45 (`view`) at 0 decimals, a tenth of that at 1.

    The default is DriveLM's own form.
    """

    space: Literal["pixels", "canvas", "view"] = "pixels"
    decimals: int = 1

    def __post_init__(self) -> None:
        problems = []
        if self.space not in ("pixels", "canvas", "view"):
            problems.append(f"field 'space': got {self.space!r}, expected 'pixels', 'canvas' or 'view'")
        if type(self.decimals) is not int or not 0 <= self.decimals <= 6:
            problems.append(f"field 'decimals': got {self.decimals!r}, expected a whole number from 0 to 6")
        if problems:
            raise CoordinateError(f"coordinate format: {'; '.join(problems)}")


DRIVELM = CoordinateFormat()
"""Pixels of the 1600x900 camera image with one decimal: what questions, references and submissions are written in."""


@dataclass(frozen=True, kw_only=True)
class DecodedText:
    """A text with its tags rewritten.

    Attributes:
        text: rewritten tags in place, everything else as it was.
        num_tags: tags that were rewritten.
        unparsed: spans that look like tags and are left as they were, in order of appearance.
    """

    text: str
    num_tags: int
    unparsed: tuple[str, ...]


def encode_point(camera: str, point: tuple[float, float], space: str) -> tuple[float, float]:
    """Camera pixels to a coordinate space, unrounded.

    With (mx, my) the camera's cell of the canvas, X = 1000 (mx + x / 1600) / 3 and Y = 1000 (my + y / 900) / 2.

    Args:
        camera: one of `CAMERAS`.
        point: x in [0, 1600] and y in [0, 900], pixels.
        space: `pixels`, `canvas` or `view`.

    Raises:
        CoordinateError: another camera, or a point outside of its image.
    """
    column, row = _cell(camera)
    x, y = point[0] / VIEW_SIZE[0], point[1] / VIEW_SIZE[1]
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise CoordinateError(f"point {point} of {camera}: expected 0 to {VIEW_SIZE[0]} and 0 to {VIEW_SIZE[1]} pixels")
    if space == "pixels":
        return point
    if space == "view":
        return _UNITS * x, _UNITS * y
    return _UNITS * (column + x) / _COLUMNS, _UNITS * (row + y) / _ROWS


def decode_point(camera: str, point: tuple[float, float], space: str, *, tolerance: float = 0.0) -> tuple[float, float]:
    """A coordinate space to camera pixels, the inverse of `encode_point`.

    Args:
        point: as `encode_point` gives it.
        tolerance: how far outside of the camera's image a point may lie, in units of `space`; it is moved to the
            border.

    Returns:
        x in [0, 1600] and y in [0, 900], pixels.

    Raises:
        CoordinateError: an unknown camera, or a point outside of its image by more than `tolerance`.
    """
    column, row = _cell(camera)
    if space == "pixels":
        x, y, unit_x, unit_y = *point, 1.0, 1.0
    elif space == "view":
        unit_x, unit_y = VIEW_SIZE[0] / _UNITS, VIEW_SIZE[1] / _UNITS
        x, y = point[0] * unit_x, point[1] * unit_y
    else:
        unit_x, unit_y = VIEW_SIZE[0] * _COLUMNS / _UNITS, VIEW_SIZE[1] * _ROWS / _UNITS
        x, y = point[0] * unit_x - column * VIEW_SIZE[0], point[1] * unit_y - row * VIEW_SIZE[1]
    inside_x, inside_y = min(max(0.0, x), VIEW_SIZE[0]), min(max(0.0, y), VIEW_SIZE[1])
    # A grain beyond the tolerance, for the rounding of the products above.
    if abs(x - inside_x) > tolerance * unit_x + 1e-6 or abs(y - inside_y) > tolerance * unit_y + 1e-6:
        raise CoordinateError(f"point {point} in {space} coordinates: expected a point inside {camera}'s image")
    return inside_x, inside_y


def encode_tags(text: str, format: CoordinateFormat, *, unparsed: list[str] | None = None) -> str:
    """Rewrite DriveLM's pixel tags of a question or an answer for the model.

    Args:
        unparsed: receives the spans that look like tags and cannot be rewritten; they are left as they are.

    Raises:
        CoordinateError: there are such spans, and no list to receive them; names the first of them and their number.
    """

    def encode(camera: str, point: tuple[float, float]) -> str:
        return _written(encode_point(camera, point, format.space), format)

    encoded = _rewrite(text, encode, may_have_brackets=False)
    if unparsed is not None:
        unparsed.extend(encoded.unparsed)
    elif encoded.unparsed:
        shown = ", ".join(map(repr, encoded.unparsed[:_SHOWN]))
        raise CoordinateError(
            f"text {text[:60]!r}: got {len(encoded.unparsed)} tags that do not parse: {shown}; expected "
            f"<c1,CAM_FRONT,800.0,450.0>, the camera one of {', '.join(CAMERAS)}, the point inside its "
            f"{VIEW_SIZE[0]}x{VIEW_SIZE[1]} pixels; correct them, or count them with `unparsed`"
        )
    return encoded.text


def decode_tags(text: str, format: CoordinateFormat) -> DecodedText:
    """Rewrite the tags of a model's answer to DriveLM's own form, pixels with one decimal.

    Spaces inside a tag and missing brackets are forgiven. A span that looks like a tag but has another form, an unknown
    camera, or a point outside of that camera's image (by more than rounding) is left as it is and listed.
    """
    tolerance = 0.5 / 10**format.decimals

    def decode(camera: str, point: tuple[float, float]) -> str:
        return _written(decode_point(camera, point, format.space, tolerance=tolerance), DRIVELM)

    return _rewrite(text, decode, may_have_brackets=True)


def model_text(text: str, format: CoordinateFormat) -> str:
    """A question or a reference answer as it is written for the model; DriveLM's own form stays to the letter.

    Tags that cannot be rewritten, such as points outside of the view, are left as they are.
    """
    return text if format == DRIVELM or "<" not in text else encode_tags(text, format, unparsed=[])


def drivelm_text(text: str, format: CoordinateFormat) -> str:
    """A model's answer in DriveLM's form, the inverse of `model_text`; what is no tag of `format` stays as it is."""
    return text if format == DRIVELM or "<" not in text else decode_tags(text, format).text


def read_tags(text: str) -> DecodedText:
    """The tags of a text in DriveLM's form: their number, and the spans that look like tags and are none."""

    def read(camera: str, point: tuple[float, float]) -> str:
        return _written(encode_point(camera, point, DRIVELM.space), DRIVELM)

    return _rewrite(text, read, may_have_brackets=False)


def unparsed_tags(texts: Iterable[str]) -> str:
    """How many spans of texts in DriveLM's form look like tags and are none, with the first of them; empty for none."""
    num_unparsed, total = 0, 0
    first: list[str] = []
    for read in (read_tags(text) for text in texts if "<" in text):
        num_unparsed += len(read.unparsed)
        total += len(read.unparsed) + read.num_tags
        first += read.unparsed[: _SHOWN - len(first)]
    if not num_unparsed:
        return ""
    shown = ", ".join(map(repr, first))
    return f"{num_unparsed:,} of {total:,} object tags do not parse and stay as they were written, first {shown}"


def point_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of the characters `x,y` of every tag, whatever the format it is written in."""
    return [match.span(1) for match in _POINT.finditer(text)] if "<" in text else []


def _rewrite(
    text: str, rewritten: Callable[[str, tuple[float, float]], str], *, may_have_brackets: bool
) -> DecodedText:
    unparsed: list[str] = []
    num_tags = 0

    def replace(span: re.Match[str]) -> str:
        nonlocal num_tags
        tag = _TAG.fullmatch(span[0])
        if tag is None or (tag[3] + tag[6]) not in (("", "[]") if may_have_brackets else ("",)):
            unparsed.append(span[0])
            return span[0]
        try:
            point = rewritten(tag[2], (float(tag[4]), float(tag[5])))
        except CoordinateError:
            unparsed.append(span[0])
            return span[0]
        num_tags += 1
        return f"<c{tag[1]},{tag[2]},{point}>"

    return DecodedText(text=_TAG_LIKE.sub(replace, text), num_tags=num_tags, unparsed=tuple(unparsed))


def _written(point: tuple[float, float], format: CoordinateFormat) -> str:
    pair = ",".join(f"{value:.{format.decimals}f}" for value in point)
    return pair if format.space == "pixels" else f"[{pair}]"


def _cell(camera: str) -> tuple[int, int]:
    """Column and row of a camera on the canvas."""
    if camera not in CAMERAS:
        raise CoordinateError(f"camera: got {camera!r}, expected one of {', '.join(CAMERAS)}")
    row, column = divmod(CAMERAS.index(camera), _COLUMNS)
    return column, row
