"""Frames in, one self-contained HTML page out: views with drawn points and boxes, questions, answers; no script."""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

from data_shards.decode import ImageError, decode_jpeg
from data_shards.page_style import STYLE
from data_shards.schema import CAMERAS, QUESTION_KINDS, TAG_NAMES, VIEW_SIZE, Question, RawFrame

THUMBNAIL_WIDTH = 480
_TAG = re.compile(r"<(c\d+),(CAM_[A-Z_]+),(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)>")
_COLOURS = (
    "#e6194b",
    "#1f9d3a",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#008b8b",
    "#c2185b",
    "#8a6d00",
    "#5d4037",
    "#546e7a",
)
_OPEN_QUESTIONS = 12


def inspect_page(title: str, summary: str, frames: Iterable[RawFrame]) -> str:
    """The page; every text of the dataset is escaped and the page loads nothing.

    Args:
        title: heading, such as the directory.
        summary: text lines shown at the top.
        frames: to show, with images.
    """
    sections = "\n".join(map(_frame, frames))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>
<pre>{escape(summary)}</pre></header>
<main>
{sections}
</main>
</body>
</html>
"""


def spread_places(count: int, wanted: int) -> list[int]:
    """Up to `wanted` places out of `count`, evenly apart, the first included."""
    return sorted({i * count // wanted for i in range(wanted)}) if count > wanted else list(range(count))


def _frame(frame: RawFrame) -> str:
    is_ring = set(frame.images) == set(CAMERAS)
    names = CAMERAS if is_ring else tuple(frame.images)
    views = "\n".join(_view(frame, name) for name in names)
    kinds = "\n".join(_kind(kind, [q for q in frame.questions if q.kind == kind]) for kind in QUESTION_KINDS)
    grid = f'<div class="views{" ring" if is_ring else ""}">{views}</div>' if names else '<p class="note">no image</p>'
    return f"""<section>
<h2>{escape(frame.key)}</h2>
<p class="note">{escape(frame.source)} · {len(frame.images)} images · {len(frame.questions)} questions ·
{len(frame.objects)} key objects</p>
{grid}
{kinds}
</section>"""


def _view(frame: RawFrame, name: str) -> str:
    try:
        thumbnail, (width, height) = _thumbnail(frame.images[name])
    except ImageError as error:
        return f'<figure class="damaged"><p>{escape(str(error))}</p><figcaption>{escape(name)}</figcaption></figure>'
    if name in CAMERAS:
        width, height = VIEW_SIZE
    marks = _marks(frame, name) if name in CAMERAS else ""
    data = base64.b64encode(thumbnail).decode()
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">'
        f'<image width="{width}" height="{height}" preserveAspectRatio="none" href="data:image/jpeg;base64,{data}"/>'
        f"{marks}</svg><figcaption>{escape(name)}</figcaption></figure>"
    )


def _thumbnail(data: bytes) -> tuple[bytes, tuple[int, int]]:
    image = Image.fromarray(decode_jpeg(data))
    size = image.size
    image.thumbnail((THUMBNAIL_WIDTH, 4 * THUMBNAIL_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue(), size


def _marks(frame: RawFrame, camera: str) -> str:
    """Boxes of key objects, their points filled, and hollow points of tags that only a text names."""
    known = {match.group(0) for tag in frame.objects if (match := _TAG.fullmatch(tag))}
    texts = (text for q in frame.questions for turn in q.turns for text in turn)
    named = dict.fromkeys(match.group(0) for text in texts for match in _TAG.finditer(text))
    parts = [_box(frame.objects[tag].get("2d_bbox"), _colour(tag)) for tag in known if _camera(tag) == camera]
    parts += [_point(tag, filled=tag in known) for tag in dict.fromkeys([*known, *named]) if _camera(tag) == camera]
    return "".join(sorted(parts))


def _camera(tag: str) -> str:
    match = _TAG.fullmatch(tag)
    return match.group(2) if match else ""


def _colour(tag: str) -> str:
    number = re.match(r"<c(\d+)", tag)
    return _COLOURS[int(number.group(1)[-9:]) % len(_COLOURS)] if number else _COLOURS[0]


def _box(box: object, colour: str) -> str:
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        return ""
    left, top, right, bottom = map(float, box)
    size = f'width="{max(0.0, right - left):.1f}" height="{max(0.0, bottom - top):.1f}"'
    return f'<rect x="{left:.1f}" y="{top:.1f}" {size} style="stroke:{colour}"/>'


def _point(tag: str, *, filled: bool) -> str:
    match = _TAG.fullmatch(tag)
    assert match is not None
    name, _, x, y = match.groups()
    fill = _colour(tag) if filled else "none"
    label = f'<text x="{float(x) + 24:.1f}" y="{float(y) - 18:.1f}" style="fill:{_colour(tag)}">{name}</text>'
    circle = f'<circle cx="{float(x):.1f}" cy="{float(y):.1f}" r="14" style="fill:{fill};stroke:{_colour(tag)}"/>'
    return f"<g><title>{escape(tag)}</title>{circle}{label}</g>"


def _kind(kind: str, questions: Sequence[Question]) -> str:
    if not questions:
        return ""
    state = " open" if len(questions) <= _OPEN_QUESTIONS else ""
    items = "\n".join(map(_question, questions))
    return f"<details{state}><summary>{kind} <b>{len(questions)}</b></summary><ol>{items}</ol></details>"


def _question(question: Question) -> str:
    tags = "".join(f'<span class="tag">{TAG_NAMES[tag]}</span>' for tag in question.tags)
    lines = "".join(f'<p class="q">{_text(q)}</p><p class="a">{_text(a)}</p>' for q, a in question.turns)
    return f"<li>{tags}{lines}</li>"


def _text(text: str) -> str:
    """Escaped text, its object tags in their colours."""
    parts, end = [], 0
    for match in _TAG.finditer(text):
        parts.append(escape(text[end : match.start()]))
        parts.append(f'<code style="color:{_colour(match.group(0))}">{escape(match.group(0))}</code>')
        end = match.end()
    return "".join([*parts, escape(text[end:])])
