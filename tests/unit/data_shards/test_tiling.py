"""Tiling against brute force and against transformers, and the tile order against plain slicing."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from data_shards.schema import CAMERAS
from data_shards.tiling import LayoutError, ViewLayout, plan_tiles, tile_images, tiles_per_image
from tests.helpers.frames import noise


def brute_force(width: int, height: int, max_tiles: int) -> set[tuple[int, int]]:
    """In exact arithmetic: of the grids of the nearest ratio the largest below twice the image's area, or the first.

    Where the image lies exactly between two ratios, rounding decides; then there is a grid of each.
    """
    grids = [(i, j) for i in range(1, max_tiles + 1) for j in range(1, max_tiles + 1) if i * j <= max_tiles]
    distance = {grid: abs(Fraction(width, height) - Fraction(*grid)) for grid in grids}
    nearest = [grid for grid in grids if distance[grid] == min(distance.values())]
    best = set()
    for ratio in {Fraction(*grid) for grid in nearest}:
        areas = sorted(i * j for i, j in nearest if Fraction(i, j) == ratio)
        area = max([areas[0], *(area for area in areas if 2 * width * height > 448 * 448 * area)])
        best |= {(i, j) for i, j in nearest if Fraction(i, j) == ratio and i * j == area}
    return best


def sizes(count: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(7)
    log_sizes = rng.uniform(np.log(20), np.log(4000), (count, 2))
    shapes = [(int(width), int(height)) for width, height in np.exp(log_sizes)]
    return shapes + [(448 * i, 448 * j) for i in range(1, 8) for j in range(1, 8)]


@pytest.mark.parametrize("max_tiles", [1, 2, 6, 12, 24])
def test_grid_is_that_of_brute_force(max_tiles):
    chosen = {size: plan_tiles(size, max_tiles=max_tiles) for size in sizes(150)}
    assert max_tiles == 1 or len(set(chosen.values())) > 1
    assert sum(len(brute_force(*size, max_tiles)) == 1 for size in chosen) > 0.9 * len(chosen)
    for size, grid in chosen.items():
        assert grid in brute_force(*size, max_tiles), size


@pytest.mark.parametrize("max_tiles", [1, 2, 6, 12])
def test_grid_is_that_of_transformers(max_tiles):
    for width, height in sizes(400):
        expected = get_optimal_tiled_canvas((height, width), (448, 448), 1, max_tiles)
        assert plan_tiles((width, height), max_tiles=max_tiles) == expected, (width, height)


def test_there_are_35_grids_of_1_to_12_tiles():
    reached = {plan_tiles((10_000 * i, 10_000 * j)) for i in range(1, 13) for j in range(1, 13) if i * j <= 12}
    assert len(reached) < 35  # equal ratios share a grid
    assert all(i * j <= 12 for i, j in reached)
    assert sum(1 for i in range(1, 13) for j in range(1, 13) if i * j <= 12) == 35


def test_the_drivelm_canvas_takes_13_tiles():
    layout = ViewLayout(mode="canvas", max_tiles=12)
    assert plan_tiles((2688, 896)) == (6, 2)
    assert tiles_per_image([(1600, 900)] * 6, layout) == [13]


def test_six_separate_views_take_18_tiles():
    assert tiles_per_image([(1600, 900)] * 6, ViewLayout(max_tiles=2)) == [3] * 6


def test_planned_tiles_are_the_tiles_cut():
    rng = np.random.default_rng(3)
    for mode in ("views", "canvas"):
        for thumbnail in (True, False):
            for count in (1, 2, 5, 6):
                images = [noise(rng, int(rng.integers(20, 200)), int(rng.integers(20, 200))) for _ in range(count)]
                layout = ViewLayout(tile_size=28, mode=mode, max_tiles=5, thumbnail=thumbnail)
                planned = tiles_per_image([image.shape[1::-1] for image in images], layout)
                tiles = tile_images(images, layout)
                assert tiles.shape == (sum(planned), 28, 28, 3)
                assert tiles.dtype == np.uint8


def test_tiles_are_row_by_row_and_the_thumbnail_is_last():
    image = noise(np.random.default_rng(0), 3 * 56, 2 * 56)
    tiles = tile_images([image], ViewLayout(tile_size=56, max_tiles=6))
    assert len(tiles) == 7
    for number in range(6):
        row, column = divmod(number, 3)
        np.testing.assert_array_equal(tiles[number], image[row * 56 :, column * 56 :][:56, :56])
    thumbnail = Image.fromarray(image).resize((56, 56), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(tiles[6], np.asarray(thumbnail))


def test_one_tile_has_no_thumbnail():
    image = noise(np.random.default_rng(0), 40, 40)
    assert len(tile_images([image], ViewLayout(tile_size=56, max_tiles=1))) == 1


def test_without_dynamic_resolution_each_image_is_one_tile():
    images = [noise(np.random.default_rng(i), 300, 50) for i in range(6)]
    for mode, expected in (("views", 6), ("canvas", 1)):
        layout = ViewLayout(tile_size=28, mode=mode, dynamic_resolution=False)
        assert sum(tiles_per_image([(300, 50)] * 6, layout)) == len(tile_images(images, layout)) == expected


def test_a_frame_without_images_has_no_tiles():
    assert tile_images([], ViewLayout(tile_size=28)).shape == (0, 28, 28, 3)
    assert tiles_per_image([], ViewLayout(mode="canvas")) == []


def test_each_camera_lies_in_its_cell_of_the_canvas():
    images = [np.full((90, 160, 3), 20 * (i + 1), dtype=np.uint8) for i in range(len(CAMERAS))]
    layout = ViewLayout(tile_size=28, mode="canvas", draw_camera_names=False)
    tiles = tile_images(images, layout)[:-1].reshape(2, 6, 28, 28, 3)
    for i in range(6):
        row, column = divmod(i, 3)
        assert (tiles[row, 2 * column : 2 * column + 2] == 20 * (i + 1)).all()


def test_the_camera_name_is_drawn_into_the_upper_left_corner_only():
    images = [np.zeros((448, 896, 3), dtype=np.uint8)] * 6
    tiles = tile_images(images, ViewLayout(mode="canvas", max_tiles=12, thumbnail=False))
    named = tile_images(images, ViewLayout(mode="canvas", max_tiles=12, thumbnail=False, draw_camera_names=False))
    assert not named.any()
    assert all(tile[:64].any() and not tile[64:].any() for tile in tiles[::2])
    assert not all((tiles[i] == tiles[0]).all() for i in range(2, 12, 2))


def test_in_canvas_mode_other_images_share_the_budget():
    layout = ViewLayout(tile_size=28, mode="canvas", max_tiles=12, thumbnail=False)
    assert sum(tiles_per_image([(400, 300)] * 2, layout)) <= 12
    assert tiles_per_image([(2800, 100)], layout) == [12]


@pytest.mark.parametrize("change", [{"mode": "mosaic"}, {"tile_size": 0}, {"max_tiles": 0}])
def test_a_layout_that_cannot_be_is_refused(change):
    with pytest.raises(LayoutError, match=next(iter(change))):
        ViewLayout(**change)


@pytest.mark.parametrize(("size", "bounds"), [((0, 5), {}), ((5, 5), {"min_tiles": 3, "max_tiles": 2})])
def test_sizes_and_bounds_without_a_grid_are_refused(size, bounds):
    with pytest.raises(LayoutError):
        plan_tiles(size, **bounds)
