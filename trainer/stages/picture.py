"""Tiles of a frame and lines of text in, one image out.

Shape suffixes: T tiles, S tile side, H height, W width, C channels.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLUMNS = 6
_LINE_HEIGHT = 14
_CHARACTER_WIDTH = 6
_MARGIN = 4


def captioned_tiles(tiles_TSSC: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """Tiles row by row, six to a row, with wrapped lines of text below; uint8 [H, W, 3]."""
    num_tiles, side = tiles_TSSC.shape[:2]
    columns = min(_COLUMNS, num_tiles)
    rows = -(-num_tiles // columns)
    width = max(columns * side, 4 * side)
    text = [part for line in lines for part in _wrap(line, (width - 2 * _MARGIN) // _CHARACTER_WIDTH)]
    canvas = Image.new("RGB", (width, rows * side + len(text) * _LINE_HEIGHT + 2 * _MARGIN), "white")
    for i, tile in enumerate(tiles_TSSC):
        canvas.paste(Image.fromarray(tile), (i % columns * side, i // columns * side))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=11)
    for i, part in enumerate(text):
        draw.text((_MARGIN, rows * side + _MARGIN + i * _LINE_HEIGHT), part, fill="black", font=font)
    return np.asarray(canvas)


def _wrap(line: str, characters: int) -> list[str]:
    flat = " ".join(line.split())
    return [flat[i : i + characters] for i in range(0, max(len(flat), 1), characters)]
