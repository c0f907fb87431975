"""Sizes of a frame's images in, grids and numbers of tiles out (InternVL's dynamic tiling); no pixel is looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from data_shards.schema import CAMERAS, CANVAS_GRID


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

    def is_canvas(self, num_images: int) -> bool:
        """Whether a frame of so many images is stitched to one canvas."""
        return self.mode == "canvas" and num_images == len(CAMERAS)

    def canvas_size(self) -> tuple[int, int]:
        """Width and height of the canvas in pixels."""
        columns, rows = CANVAS_GRID
        return columns * 2 * self.tile_size, rows * self.tile_size

    def budgets(self, num_images: int, names: Sequence[str] | None) -> list[int]:
        """The most tiles of each image of a frame that is not a canvas, thumbnails aside.

        Raises:
            LayoutError: cameras have budgets of their own, and there are no names.
        """
        if self.mode == "canvas":
            return [max(1, self.max_tiles // max(1, num_images))] * num_images
        if self.camera_max_tiles is None:
            return [self.max_tiles] * num_images
        if names is None and num_images:
            raise LayoutError(
                f"tiles of {num_images} images: got no names, which budgets for cameras need; give `names`"
            )
        return [self.camera_max_tiles.get(name, self.max_tiles) for name in names or ()]

    def grid(self, size_wh: tuple[int, int], budget: int) -> tuple[int, int]:
        """Columns and rows of tiles of an image of this width and height in pixels.

        Raises:
            LayoutError: an empty image.
        """
        if not self.dynamic_resolution:
            return (1, 1)
        return plan_tiles(size_wh, tile_size=self.tile_size, max_tiles=budget)

    def num_tiles(self, grid: tuple[int, int]) -> int:
        """Tiles of an image with these columns and rows, the thumbnail included."""
        tiles = grid[0] * grid[1]
        return tiles + 1 if self.thumbnail and tiles > 1 else tiles


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
        layout: how they become tiles.
        names: image names, needed where the layout has budgets for cameras.

    Returns:
        One number an image; a single number for a canvas, which is one image to the model.

    Raises:
        LayoutError: an empty image, or no names where they are needed.
    """
    if layout.is_canvas(len(sizes)):
        return [layout.num_tiles(layout.grid(layout.canvas_size(), layout.max_tiles))]
    budgets = layout.budgets(len(sizes), names)
    return [layout.num_tiles(layout.grid(size, budget)) for size, budget in zip(sizes, budgets, strict=True)]


def _grids(min_tiles: int, max_tiles: int) -> list[tuple[int, int]]:
    grids = [
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows >= min_tiles
    ]
    return sorted(grids, key=lambda grid: grid[0] * grid[1])
