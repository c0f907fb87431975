"""General image questions, unrelated to driving: a few shapes and a digit on plain ground, asked in simple words."""

import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_shards.schema import Question
from data_shards.sources.synthetic.describe import Cell
from data_shards.sources.synthetic.objects import COLOURS

SHAPES = ("circle", "square", "triangle")
_PLACES = {
    "top left": (0.27, 0.27),
    "top right": (0.73, 0.27),
    "bottom left": (0.27, 0.73),
    "bottom right": (0.73, 0.73),
}
_GROUND = (128, 128, 128)
_NUMBERS = ("Zero.", "One.", "Two.", "Three.", "Four.")


@dataclass(frozen=True)
class Figure:
    """A shape or a digit (`digit` is then its value) at one of four places."""

    place: str
    shape: str
    colour: str
    digit: int | None


def make_picture(rng: np.random.Generator) -> tuple[Figure, ...]:
    """Two to four figures at different places."""
    places = [str(place) for place in rng.permutation(list(_PLACES))[: int(rng.integers(2, 5))]]
    figures = []
    for place in places:
        shape, colour = str(rng.choice([*SHAPES, "digit"])), str(rng.choice(list(COLOURS)))
        figures.append(Figure(place, shape, colour, int(rng.integers(0, 10)) if shape == "digit" else None))
    return tuple(figures)


def draw_picture(picture: tuple[Figure, ...], size: int) -> bytes:
    """The picture as a JPEG of `size` pixels squared."""
    image = Image.new("RGB", (size, size), _GROUND)
    draw = ImageDraw.Draw(image)
    for figure in picture:
        x, y = (share * size for share in _PLACES[figure.place])
        _draw_figure(draw, figure, (x, y), 0.17 * size)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def picture_cells(picture: tuple[Figure, ...], grid: int) -> list[Cell]:
    """The `grid` x `grid` cells, row by row: figures fill the quadrant they are drawn in."""
    cells = [Cell(("image",)) for _ in range(grid * grid)]
    for figure in picture:
        row, column = (int(_PLACES[figure.place][axis] > 0.5) * (grid // 2) for axis in (1, 0))
        words = (figure.colour, figure.shape, *([str(figure.digit)] if figure.digit is not None else []))
        for i in range(grid // 2):
            for j in range(grid // 2):
                cells[(row + i) * grid + column + j] = Cell(words, _PLACES[figure.place])
    return cells


def picture_questions(picture: tuple[Figure, ...], rng: np.random.Generator) -> tuple[Question, ...]:
    """What is where, in which colour, how many."""
    asked = []
    for figure in picture:
        asked.append((f"What is at the {figure.place} of the image?", f"A {figure.colour} {figure.shape}."))
        asked.append((f"What color is the {figure.shape} at the {figure.place}?", f"{figure.colour.capitalize()}."))
        if figure.digit is not None:
            asked.append((f"Which digit is at the {figure.place}?", f"{figure.digit}."))
    counts = Counter(figure.shape for figure in picture)
    for shape in (*SHAPES, "digit"):
        asked.append((f"How many {shape}s are there in the image?", _NUMBERS[counts[shape]]))
    shape = str(rng.choice(SHAPES))
    asked.append((f"Is there a {shape} in the image?", "Yes." if counts[shape] else "No."))
    return tuple(Question(question=question, answer=answer, kind="general") for question, answer in asked)


def _draw_figure(draw: ImageDraw.ImageDraw, figure: Figure, place: tuple[float, float], radius: float) -> None:
    (x, y), r, fill = place, radius, COLOURS[figure.colour]
    if figure.shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    elif figure.shape == "square":
        draw.rectangle([x - r, y - r, x + r, y + r], fill=fill)
    elif figure.shape == "triangle":
        draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=fill)
    else:
        draw.text((x, y), str(figure.digit), fill=fill, font=ImageFont.load_default(2.2 * r), anchor="mm")
