"""A scene in, words for every cell of every view out: the picture as text, laid out like the image tokens.

The tiny language model is pretrained on such pictures in words, and the tiny teacher to predict them from pixels.
"""

from dataclasses import dataclass

import numpy as np

from data_shards.schema import CAMERAS, VIEW_SIZE
from data_shards.sources.synthetic.cameras import RIG
from data_shards.sources.synthetic.objects import NEAR_DISTANCES, Scene, WorldObject
from data_shards.sources.synthetic.visibility import object_box

_STATUS_WORDS = {"Going ahead": "going", "Stopped": "stopped", "Turn left": "left", "Turn right": "right"}


@dataclass(frozen=True)
class Cell:
    """What one cell of a view shows: words, and where an object is in it that object's centre in shares of the view."""

    words: tuple[str, ...]
    centre: tuple[float, float] | None = None


def scene_cells(scene: Scene, grid: int) -> dict[str, list[Cell]]:
    """The `grid` x `grid` cells of each view, row by row.

    Args:
        scene: what is there.
        grid: cells on each side of a view.

    Returns:
        Camera name to grid * grid cells.
    """
    return {name: _view_cells(scene, name, grid) for name in CAMERAS}


def _view_cells(scene: Scene, camera_name: str, grid: int) -> list[Cell]:
    cells = [Cell(_ground_words(scene, camera_name, row, grid)) for row in range(grid) for _ in range(grid)]
    for item in sorted(scene.objects, key=lambda item: -item.distance):
        box = object_box(item, RIG[camera_name])
        if box is not None:
            middle = ((box[0] + box[2]) / 2 / VIEW_SIZE[0], (box[1] + box[3]) / 2 / VIEW_SIZE[1])
            for cell in _covered_cells(np.array(box), grid):
                cells[cell] = Cell(_object_words(item), middle)
    return cells


def _ground_words(scene: Scene, camera_name: str, row: int, grid: int) -> tuple[str, ...]:
    if row < grid // 2:
        return (scene.weather,)
    return ("road", scene.road) if camera_name == "CAM_FRONT" else ("road",)


def _object_words(item: WorldObject) -> tuple[str, ...]:
    distance = "near" if item.distance <= NEAR_DISTANCES[1] + 0.5 else "far"
    words = (item.colour, item.kind.name.split()[-1], distance)
    return (*words, _STATUS_WORDS[item.status]) if item.kind.moves else words


def _covered_cells(box: np.ndarray, grid: int) -> list[int]:
    """Cells of which the box covers a fifth, and always the cell of its centre."""
    cell = np.array(VIEW_SIZE) / grid
    centre = np.minimum((box[:2] + box[2:]) / 2 // cell, grid - 1).astype(int)
    covered = {int(centre[1] * grid + centre[0])}
    for row in range(grid):
        for column in range(grid):
            low = np.maximum(box[:2], (column, row) * cell)
            high = np.minimum(box[2:], (column + 1, row + 1) * cell)
            if (high > low).all() and (high - low).prod() > 0.2 * cell.prod():
                covered.add(row * grid + column)
    return sorted(covered)
