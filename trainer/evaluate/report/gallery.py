"""Frames with graded answers in, the report's gallery as HTML out: one picture a frame, shared by its questions."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from data_shards.schema import CAMERAS, RawFrame
from trainer.evaluate.baselines import offered_options
from trainer.evaluate.report.charts import series_class
from trainer.evaluate.report.markup import text
from trainer.evaluate.report.points import CANVAS, COLUMNS, Mark, cell, marks
from trainer.evaluate.report.systems import MEASURES, Graded, System

_SIZES = ((480, 82), (400, 78), (360, 72), (320, 66), (320, 52), (240, 50), (200, 42), (160, 35), (120, 25))
"""Width of a view in pixels and JPEG quality, tried until a picture fits."""

_MARK = 34
_STROKE = 9


@dataclass(frozen=True, kw_only=True)
class FrameRows:
    """One frame: its key and, for each of its questions, the answer of every system."""

    key: str
    rows: tuple[tuple[Graded, ...], ...]


def group_by_frame(systems: Sequence[System]) -> list[FrameRows]:
    """All frames in the order of the references."""
    frames: dict[str, list[tuple[Graded, ...]]] = {}
    for row in zip(*(system.graded for system in systems), strict=True):
        frames.setdefault(f"{row[0].question.scene}_{row[0].question.frame}", []).append(row)
    return [FrameRows(key=key, rows=tuple(rows)) for key, rows in frames.items()]


def spread(frames: Sequence[FrameRows], count: int) -> list[FrameRows]:
    """At most `count` frames, evenly spaced."""
    if len(frames) <= count:
        return list(frames)
    return [frames[place * len(frames) // count] for place in range(count)]


def frame_markup(frame: FrameRows, names: Sequence[str], picture: str) -> str:
    """One frame of the gallery; `picture` is a data URI, empty where the data have no such frame."""
    overlays = "".join(_overlay(frame.key, row_number, row) for row_number, row in enumerate(frame.rows))
    labels = "".join(
        f'<text class="camera" x="{cell(camera)[0] + 24}" y="{cell(camera)[1] + 78}">{camera}</text>'
        for camera in CAMERAS
    )
    image = (
        f'<img src="{picture}" alt="Six views of {text(frame.key)}">' if picture else '<p class="none">no images</p>'
    )
    rows = "".join(_row(frame.key, number, row, names) for number, row in enumerate(frame.rows))
    return (
        f'<article class="frame" data-key="{text(frame.key)}"><h3>{text(frame.key)}</h3>'
        f'<div class="views">{image}<svg viewBox="0 0 {CANVAS[0]} {CANVAS[1]}" preserveAspectRatio="none" '
        f'aria-hidden="true">{labels}{overlays}</svg></div><div class="rows">{rows}</div></article>\n'
    )


def _row(key: str, number: int, row: Sequence[Graded], names: Sequence[str]) -> str:
    first = row[0]
    question = first.question
    right = "".join("1" if graded.is_right else "0" for graded in row)
    answers = "".join(
        f'<div class="answer" data-system="{place}"><div><b>{text(name, 60)}</b>'
        f'<span class="badge {"right" if graded.is_right else "wrong"}">{_verdict(graded)}</span></div>'
        f"<p>{_answer(question.question, graded.answer)}</p></div>"
        for place, (name, graded) in enumerate(zip(names, row, strict=True))
    )
    return (
        f'<section class="row" tabindex="0" data-id="{text(question.id)}" data-row="{number}" '
        f'data-kind="{text(question.kind)}" data-bucket="{first.bucket}" data-right="{right}">'
        f'<p class="question">{text(question.question)}<small>{text(question.kind)} · {first.bucket}</small></p>'
        f'<div class="answer"><div><b>reference</b></div><p>{_answer(question.question, question.answer)}</p></div>'
        f"{answers}</section>"
    )


def _answer(question: str, answer: str) -> str:
    """An answer; behind a letter the option it stands for."""
    option = offered_options(question).get(answer)
    meaning = f" <small>{text(option)}</small>" if option else ""
    return f"{text(answer)}{meaning}" if answer.strip() else "<i>nothing</i>"


def _verdict(graded: Graded) -> str:
    if graded.bucket == "accuracy":
        return "right" if graded.is_right else "wrong"
    return f"{MEASURES[graded.bucket]} {graded.credit:.2f}"


def _overlay(key: str, number: int, row: Sequence[Graded]) -> str:
    """The points of a question's text and reference, and of each system's answer; shown when the row is chosen."""
    question = row[0].question
    groups = [("asked", "", _squares(marks(question.question))), ("wanted", "", _rings(marks(question.answer)))]
    groups += [
        (f"given {series_class(place)}", f' data-system="{place}"', _crosses(marks(graded.answer)))
        for place, graded in enumerate(row)
    ]
    drawn = "".join(f'<g class="{kind}"{system}>{shapes}</g>' for kind, system, shapes in groups if shapes)
    return f'<g class="marks" data-row="{number}">{drawn}</g>' if drawn else ""


def _rings(points: Iterable[Mark]) -> str:
    return _shapes(points, lambda x, y: f'<circle cx="{x}" cy="{y}" r="{_MARK}"/>')


def _squares(points: Iterable[Mark]) -> str:
    side = 2 * _MARK + 4 * _STROKE
    return _shapes(
        points, lambda x, y: f'<rect x="{x - side // 2}" y="{y - side // 2}" width="{side}" height="{side}"/>'
    )


def _crosses(points: Iterable[Mark]) -> str:
    reach = _MARK - _STROKE
    return _shapes(
        points,
        lambda x, y: (
            f'<path d="M{x - reach} {y - reach}l{2 * reach} {2 * reach}m{-2 * reach} 0l{2 * reach} {-2 * reach}"/>'
        ),
    )


def _shapes(points: Iterable[Mark], draw: Callable[[int, int], str]) -> str:
    return "".join(
        f"{draw(round(point.x), round(point.y))}"
        f'<text x="{round(point.x) + _MARK + 12}" y="{round(point.y) - 16}">{text(point.label)}</text>'
        for point in points
    )


class Pictures:
    """Stitches frames and makes them small: as soon as one does not fit, it and all that follow get a smaller size.

    `problems` names the views that do not decode.
    """

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of one JPEG, where the smallest size allows it."""
        self._max_bytes = max_bytes
        self._sizes = list(_SIZES)
        self.problems: list[str] = []

    def uri(self, frame: RawFrame) -> str:
        """The six views of a frame as the data URI of one JPEG; one that does not decode is black, and a problem."""
        views = {}
        for camera in CAMERAS:
            if camera in frame.images:
                try:
                    views[camera] = _view(frame.images[camera])
                except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                    self.problems.append(f"{frame.key}: {camera}: shown black ({error})")
        data = _jpeg(views, *self._sizes[0])
        while len(data) > self._max_bytes and len(self._sizes) > 1:
            del self._sizes[0]
            data = _jpeg(views, *self._sizes[0])
        return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _view(data: bytes) -> Image.Image:
    """An image decoded at no more pixels than its place needs."""
    view = Image.open(io.BytesIO(data))
    view.draft("RGB", (2 * _SIZES[0][0], 2 * _SIZES[0][0]))
    return view.convert("RGB")


def _jpeg(views: Mapping[str, Image.Image], width: int, quality: int) -> bytes:
    width = min(width, max((view.width for view in views.values()), default=width))
    height = width * CANVAS[1] * COLUMNS // (CANVAS[0] * (len(CAMERAS) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * width, len(CAMERAS) // COLUMNS * height))
    for place, camera in enumerate(CAMERAS):
        if camera in views:
            row, column = divmod(place, COLUMNS)
            small = views[camera].resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
            sheet.paste(small, (column * width, row * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
