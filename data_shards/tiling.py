"""Views of a frame in, tiles for the vision tower out: InternVL's dynamic tiling, by view or on a canvas.

Shape suffixes: T tiles, S tile side in pixels, R and C rows and columns of tiles.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_shards.decode import MAX_PIXELS, Picture, decode_picture, jpeg_size, resize
from data_shards.schema import CAMERAS, CANVAS_GRID

_CANVAS_COLUMNS, _CANVAS_ROWS = CANVAS_GRID

Allocate = Callable[[int], np.ndarray]
"""A number of tiles to uint8 [T, S, S, 3], with any content."""


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
        exact: decode and resize with Pillow, so that tiles are equal, pixel for pixel, to those which transformers'
            PIL image processor makes; False is about three times faster and differs by less than 1/255 on average.
        camera_max_tiles: camera name to its own `max_tiles`, `views` mode only; other images have `max_tiles`.
    """

    tile_size: int = 448
    mode: Literal["views", "canvas"] = "views"
    max_tiles: int = 12
    thumbnail: bool = True
    dynamic_resolution: bool = True
    draw_camera_names: bool = True
    exact: bool = False
    camera_max_tiles: Mapping[str, int] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        problems = []
        if self.mode not in ("views", "canvas"):
            problems.append(f"field 'mode': got {self.mode!r}, expected 'views' or 'canvas'")
        for name in ("tile_size", "max_tiles"):
            if getattr(self, name) < 1:
                problems.append(f"field {name!r}: got {getattr(self, name)}, expected at least 1")
        problems += self._camera_problems()
        if problems:
            raise LayoutError(f"view layout: {'; '.join(problems)}")

    def _camera_problems(self) -> list[str]:
        budgets = self.camera_max_tiles or {}
        problems = [
            f"field 'camera_max_tiles': got the camera {name!r}, expected one of {', '.join(CAMERAS)}"
            for name in budgets
            if name not in CAMERAS
        ]
        problems += [
            f"field 'camera_max_tiles': got {budget!r} for {name}, expected a whole number of at least 1"
            for name, budget in budgets.items()
            if type(budget) is not int or budget < 1
        ]
        if budgets and self.mode == "canvas":
            problems.append("field 'camera_max_tiles': got it in mode 'canvas', whose views share one budget; drop it")
        return problems


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


def tiles_per_image(
    sizes: Sequence[tuple[int, int]], layout: ViewLayout, names: Sequence[str] | None = None
) -> list[int]:
    """Tiles that each image of a frame takes, thumbnails included, known from the sizes alone.

    Args:
        sizes: width and height of each image in pixels; in `canvas` mode six images are the cameras.
        layout: as for `tile_images`.
        names: image names, needed where the layout has budgets for cameras.

    Returns:
        One number an image; a single number for a canvas, which is one image to the model.

    Raises:
        LayoutError: an empty image, or no names where they are needed.
    """
    if _is_canvas(len(sizes), layout):
        return [_count(_grid(_canvas_size(layout), layout.max_tiles, layout), layout)]
    budgets = _budgets(layout, len(sizes), names)
    return [_count(_grid(size, budget, layout), layout) for size, budget in zip(sizes, budgets, strict=True)]


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
    if _is_canvas(len(sizes), layout):
        canvas_size = _canvas_size(layout)
        canvas = Picture(pixels=_stitch(load, layout), extent=canvas_size)
        return _tile([canvas_size], lambda i, target: canvas, layout, None, allocate)
    counts = tiles_per_image(sizes, layout, names)
    budgets = _budgets(layout, len(sizes), names)
    side = layout.tile_size
    tiles = allocate(sum(counts)) if allocate else np.empty((sum(counts), side, side, 3), dtype=np.uint8)
    first = 0
    for i, (size, budget, count) in enumerate(zip(sizes, budgets, counts, strict=True)):
        columns, rows = _grid(size, budget, layout)
        target = (columns * side, rows * side)
        picture = load(i, target)
        grid_RSCS3 = resize(picture, target, exact=layout.exact).reshape(rows, side, columns, side, 3)
        tiles[first : first + columns * rows].reshape(rows, columns, side, side, 3)[:] = grid_RSCS3.swapaxes(1, 2)
        if count > columns * rows:
            tiles[first + count - 1] = resize(picture, (side, side), exact=layout.exact)
        first += count
    return tiles, counts


def _grids(min_tiles: int, max_tiles: int) -> list[tuple[int, int]]:
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows >= min_tiles
    ]
    return sorted(grids, key=lambda grid: grid[0] * grid[1])


def _budgets(layout: ViewLayout, num_images: int, names: Sequence[str] | None) -> list[int]:
    if layout.mode == "canvas":
        return [max(1, layout.max_tiles // max(1, num_images))] * num_images
    if layout.camera_max_tiles is None:
        return [layout.max_tiles] * num_images
    if names is None and num_images:
        raise LayoutError(f"tiles of {num_images} images: got no names, which budgets for cameras need; give `names`")
    return [layout.camera_max_tiles.get(name, layout.max_tiles) for name in names or ()]


def _grid(size: tuple[int, int], budget: int, layout: ViewLayout) -> tuple[int, int]:
    if not layout.dynamic_resolution:
        return (1, 1)
    return plan_tiles(size, tile_size=layout.tile_size, max_tiles=budget)


def _count(grid: tuple[int, int], layout: ViewLayout) -> int:
    tiles = grid[0] * grid[1]
    return tiles + 1 if layout.thumbnail and tiles > 1 else tiles


def _is_canvas(num_images: int, layout: ViewLayout) -> bool:
    return layout.mode == "canvas" and num_images == len(CAMERAS)


def _canvas_size(layout: ViewLayout) -> tuple[int, int]:
    return _CANVAS_COLUMNS * 2 * layout.tile_size, _CANVAS_ROWS * layout.tile_size


def _stitch(load: _Load, layout: ViewLayout) -> np.ndarray:
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
