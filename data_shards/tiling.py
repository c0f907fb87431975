"""Decoded views of a frame in, tiles for the vision tower out: InternVL's dynamic tiling, by view or on a canvas.

Shape suffixes: T tiles, S tile side in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_shards.schema import CAMERAS

_CANVAS_COLUMNS, _CANVAS_ROWS = 3, 2


class LayoutError(ValueError):
    """A layout or an image size for which there is no tiling."""


@dataclass(frozen=True, kw_only=True)
class ViewLayout:
    """How the images of a frame become tiles.

    Attributes:
        tile_size: side of a tile in pixels.
        mode: `views` tiles each image by itself; `canvas` stitches the six cameras to one 3x2 canvas, each cell
            2 tiles wide and 1 high, and tiles that (frames of other images are tiled one by one).
        max_tiles: thumbnails aside; of each image in `views` mode, of the whole frame in `canvas` mode.
        thumbnail: add the whole image as a last tile where there is more than one.
        dynamic_resolution: False gives each image (or the canvas) exactly one tile.
        draw_camera_names: write its name into the upper left corner of each canvas cell; `canvas` mode only.
    """

    tile_size: int = 448
    mode: Literal["views", "canvas"] = "views"
    max_tiles: int = 12
    thumbnail: bool = True
    dynamic_resolution: bool = True
    draw_camera_names: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("views", "canvas"):
            raise LayoutError(f"view layout: field 'mode': got {self.mode!r}, expected 'views' or 'canvas'")
        for name in ("tile_size", "max_tiles"):
            if getattr(self, name) < 1:
                raise LayoutError(f"view layout: field {name!r}: got {getattr(self, name)}, expected at least 1")


def plan_tiles(
    size_wh: tuple[int, int], *, tile_size: int = 448, max_tiles: int = 12, min_tiles: int = 1
) -> tuple[int, int]:
    """Choose the grid of tiles for an image (InternVL's dynamic tiling).

    Among all grids of `min_tiles` to `max_tiles` tiles the one whose ratio of columns to rows is nearest to the
    image's; of equally near ones a larger grid is taken while the image has more than half its pixels.

    Args:
        size_wh: width and height of the image in pixels.
        tile_size: side of a tile in pixels.
        max_tiles, min_tiles: bounds of columns times rows.

    Returns:
        Columns and rows.

    Raises:
        LayoutError: an empty image, or bounds that leave no grid.
    """
    width, height = size_wh
    if width < 1 or height < 1:
        raise LayoutError(f"image size: got {width}x{height}, expected at least 1x1")
    if not 1 <= min_tiles <= max_tiles:
        raise LayoutError(f"tiles: got min_tiles {min_tiles} and max_tiles {max_tiles}, expected 1 <= min <= max")
    best, best_distance = (1, 1), float("inf")
    for columns, rows in _grids(min_tiles, max_tiles):
        distance = abs(width / height - columns / rows)
        fills_half = width * height > 0.5 * tile_size * tile_size * columns * rows
        if distance < best_distance or (distance == best_distance and fills_half):
            best, best_distance = (columns, rows), distance
    return best


def tiles_per_image(sizes: Sequence[tuple[int, int]], layout: ViewLayout) -> list[int]:
    """Tiles that each image of a frame takes, thumbnails included, known from the sizes alone.

    Args:
        sizes: width and height of each image in pixels; in `canvas` mode six images are the cameras.
        layout: as for `tile_images`.

    Returns:
        One number an image; a single number for a canvas, which is one image to the model.
    """
    if _is_canvas(len(sizes), layout):
        sizes = [_canvas_size(layout)]
    return [_count(_grid(size, layout, len(sizes)), layout) for size in sizes]


def tile_images(images: Sequence[np.ndarray], layout: ViewLayout) -> np.ndarray:
    """Cut the images of a frame into tiles.

    Args:
        images: decoded images [H, W, 3], uint8; in `canvas` mode six images are the cameras in `CAMERAS` order.
        layout: how.

    Returns:
        Tiles [T, S, S, 3], uint8, image by image in the order of `tiles_per_image`; within an image row by row, its
        thumbnail last. A frame without images has T = 0.
    """
    pictures = [Image.fromarray(image) for image in images]
    if _is_canvas(len(images), layout):
        pictures = [_stitch(pictures, layout)]
    tiles = [tile for picture in pictures for tile in _cut(picture, layout, len(pictures))]
    if not tiles:
        return np.zeros((0, layout.tile_size, layout.tile_size, 3), dtype=np.uint8)
    return np.stack(tiles)


def _grids(min_tiles: int, max_tiles: int) -> list[tuple[int, int]]:
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows >= min_tiles
    ]
    return sorted(grids, key=lambda grid: grid[0] * grid[1])


def _grid(size: tuple[int, int], layout: ViewLayout, num_images: int) -> tuple[int, int]:
    if not layout.dynamic_resolution:
        return (1, 1)
    budget = layout.max_tiles if layout.mode == "views" else max(1, layout.max_tiles // num_images)
    return plan_tiles(size, tile_size=layout.tile_size, max_tiles=budget)


def _count(grid: tuple[int, int], layout: ViewLayout) -> int:
    tiles = grid[0] * grid[1]
    return tiles + 1 if layout.thumbnail and tiles > 1 else tiles


def _cut(picture: Image.Image, layout: ViewLayout, num_images: int) -> list[np.ndarray]:
    side = layout.tile_size
    columns, rows = _grid(picture.size, layout, num_images)
    resized = np.asarray(_resize(picture, (columns * side, rows * side)))
    tiles_RCSS3 = resized.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
    tiles = list(tiles_RCSS3.reshape(rows * columns, side, side, 3))
    if _count((columns, rows), layout) > len(tiles):
        tiles.append(np.asarray(_resize(picture, (side, side))))
    return tiles


def _resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def _is_canvas(num_images: int, layout: ViewLayout) -> bool:
    return layout.mode == "canvas" and num_images == len(CAMERAS)


def _canvas_size(layout: ViewLayout) -> tuple[int, int]:
    return _CANVAS_COLUMNS * 2 * layout.tile_size, _CANVAS_ROWS * layout.tile_size


def _stitch(pictures: Sequence[Image.Image], layout: ViewLayout) -> Image.Image:
    canvas = Image.new("RGB", _canvas_size(layout))
    cell = (2 * layout.tile_size, layout.tile_size)
    for i, (camera, picture) in enumerate(zip(CAMERAS, pictures, strict=True)):
        view = _resize(picture, cell)
        if layout.draw_camera_names:
            view = view.copy()
            font = ImageFont.load_default(size=max(8, layout.tile_size // 14))
            ImageDraw.Draw(view).text((0, 0), camera, fill=(255, 255, 255), font=font)
        row, column = divmod(i, _CANVAS_COLUMNS)
        canvas.paste(view, (column * cell[0], row * cell[1]))
    return canvas
