"""Views of a frame and a `ViewLayout` in, tiles for the vision tower out, cut by view or from a canvas.

Shape suffixes: T tiles, S tile side in pixels, R and C rows and columns of tiles.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_shards.decode import MAX_PIXELS, Picture, decode_picture, jpeg_size, resize
from data_shards.schema import CAMERAS, CANVAS_GRID
from data_shards.view_layout import ViewLayout, tiles_per_image

_CANVAS_COLUMNS, _CANVAS_ROWS = CANVAS_GRID

Allocate = Callable[[int], np.ndarray]
"""A number of tiles to uint8 [T, S, S, 3], with any content."""


def tile_images(images: Sequence[np.ndarray], layout: ViewLayout, names: Sequence[str] | None = None) -> np.ndarray:
    """Cut the decoded images of a frame into tiles.

    Args:
        images: decoded images [H, W, 3], uint8; in `canvas` mode six images are the cameras in `CAMERAS` order.
        layout: how.
        names: image names, needed where the layout has budgets for cameras.

    Returns:
        Tiles [T, S, S, 3], uint8, image by image in the order of `tiles_per_image`; within an image row by row, its
        thumbnail last. A frame without images has T = 0.

    Raises:
        LayoutError: as `tiles_per_image`.
    """
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    return _tile(sizes, lambda i, target: Picture(pixels=images[i], extent=sizes[i]), layout, names)[0]


def tile_jpegs(
    images: Mapping[str, bytes],
    layout: ViewLayout,
    *,
    max_pixels: int = MAX_PIXELS,
    allocate: Allocate | None = None,
) -> tuple[np.ndarray, list[int]]:
    """Decode the images of a frame and cut them into tiles; each is decoded at no more pixels than its tiles need.

    Args:
        images: image name to JPEG bytes; in `canvas` mode the six cameras may come in any order.
        layout: how.
        max_pixels: see `decode_jpeg`.
        allocate: gives the memory for the tiles.

    Returns:
        Tiles [T, S, S, 3], uint8, as `tile_images`, and the tiles of each image, as `tiles_per_image`.

    Raises:
        ImageError: no JPEG, a cut or damaged one, or one that is too large.
        LayoutError: as `tiles_per_image`.
    """
    names = list(CAMERAS if layout.mode == "canvas" and set(images) == set(CAMERAS) else images)
    sizes = [jpeg_size(images[name]) for name in names]

    def load(i: int, target: tuple[int, int]) -> Picture:
        return decode_picture(images[names[i]], target, max_pixels=max_pixels, exact=layout.exact)

    return _tile(sizes, load, layout, names, allocate)


def stitch_views(images: Sequence[np.ndarray], layout: ViewLayout) -> np.ndarray:
    """The canvas of six decoded views, as `canvas` mode tiles it; an exported model is shown it as one image.

    Args:
        images: decoded images [H, W, 3], uint8, in `CAMERAS` order.

    Returns:
        [2 S, 6 S, 3], uint8.
    """
    return _stitch(lambda i, target: Picture(pixels=images[i], extent=images[i].shape[1::-1]), layout)


_Load = Callable[[int, tuple[int, int]], Picture]
"""Image number and the size it is resized to, to its pixels."""


def _tile(
    sizes: Sequence[tuple[int, int]],
    load: _Load,
    layout: ViewLayout,
    names: Sequence[str] | None,
    allocate: Allocate | None = None,
) -> tuple[np.ndarray, list[int]]:
    """Tiles of the images of these sizes (width, height), and the tiles of each; a canvas is stitched first."""
    if layout.is_canvas(len(sizes)):
        canvas_size = layout.canvas_size()
        canvas = Picture(pixels=_stitch(load, layout), extent=canvas_size)
        return _tile([canvas_size], lambda i, target: canvas, layout, None, allocate)
    counts = tiles_per_image(sizes, layout, names)
    budgets = layout.budgets(len(sizes), names)
    side = layout.tile_size
    tiles = allocate(sum(counts)) if allocate else np.empty((sum(counts), side, side, 3), dtype=np.uint8)
    first = 0
    for i, (size, budget, count) in enumerate(zip(sizes, budgets, counts, strict=True)):
        columns, rows = layout.grid(size, budget)
        target = (columns * side, rows * side)
        picture = load(i, target)
        grid_RSCS3 = resize(picture, target, exact=layout.exact).reshape(rows, side, columns, side, 3)
        tiles[first : first + columns * rows].reshape(rows, columns, side, side, 3)[:] = grid_RSCS3.swapaxes(1, 2)
        if count > columns * rows:
            tiles[first + count - 1] = resize(picture, (side, side), exact=layout.exact)
        first += count
    return tiles, counts


def _stitch(load: _Load, layout: ViewLayout) -> np.ndarray:
    """The canvas of the six cameras, uint8 [2 S, 6 S, 3]."""
    width, height = 2 * layout.tile_size, layout.tile_size
    canvas = np.empty((_CANVAS_ROWS * height, _CANVAS_COLUMNS * width, 3), dtype=np.uint8)
    for i, camera in enumerate(CAMERAS):
        row, column = divmod(i, _CANVAS_COLUMNS)
        cell = canvas[row * height : (row + 1) * height, column * width : (column + 1) * width]
        cell[:] = resize(load(i, (width, height)), (width, height), exact=layout.exact)
        if layout.draw_camera_names:
            _draw_name(cell, camera)
    return canvas


def _draw_name(cell: np.ndarray, name: str) -> None:
    """Write into the upper left corner, in place."""
    size = max(8, len(cell) // 14)
    strip = Image.fromarray(cell[: 2 * size])
    ImageDraw.Draw(strip).text((0, 0), name, fill=(255, 255, 255), font=ImageFont.load_default(size=size))
    cell[: 2 * size] = np.asarray(strip)
