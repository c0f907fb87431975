"""A frame with predicted answers in, one picture out: its views, then questions, answers and references."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_shards.decode import decode_jpeg
from data_shards.schema import CAMERAS, RawFrame

_COLUMNS = 3
_MARGIN, _LINE = 8, 17
_FONT_SIZE = 13
_LETTERS_A_LINE = 165


def answered_frame(frame: RawFrame, answered: Sequence[tuple[str, str, str]]) -> Image.Image:
    """Draw a six-camera frame.

    Args:
        frame: all cameras at one size.
        answered: question, answer and reference.
    """
    views = [decode_jpeg(frame.images[name]) for name in CAMERAS]
    rows = [np.hstack(views[i : i + _COLUMNS]) for i in range(0, len(views), _COLUMNS)]
    sheet = np.vstack(rows)
    lines = [line for row in answered for line in _lines(*row)]
    height = sheet.shape[0] + 2 * _MARGIN + _LINE * len(lines)
    picture = Image.new("RGB", (sheet.shape[1], height), "white")
    picture.paste(Image.fromarray(sheet), (0, 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=_FONT_SIZE)
    for i, name in enumerate(CAMERAS):
        corner = (i % _COLUMNS * views[0].shape[1] + 4, i // _COLUMNS * views[0].shape[0] + 2)
        draw.text(corner, name, fill="white", stroke_width=1, stroke_fill="black", font=font)
    for i, (text, colour) in enumerate(lines):
        draw.text((_MARGIN, sheet.shape[0] + _MARGIN + i * _LINE), text, fill=colour, font=font)
    return picture


def _lines(question: str, answer: str, reference: str) -> list[tuple[str, str]]:
    colour = "darkgreen" if answer == reference else "firebrick"
    parts = [(f"Q  {question}", "black"), (f"A  {answer}", colour)]
    if answer != reference:
        parts.append((f"R  {reference}", "dimgray"))
    return [
        (line, colour)
        for text, colour in parts
        for line in textwrap.wrap(text, _LETTERS_A_LINE, subsequent_indent="    ")
    ]
