"""Grids and numbers of tiles against brute force and transformers, as properties over sizes; layouts that cannot be."""

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from data_shards.view_layout import LayoutError, ViewLayout, plan_tiles, tiles_per_image

sides = st.integers(1, 5000)
many = settings(max_examples=150, deadline=None, derandomize=True, database=None)


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


@many
@given(sides, sides, st.integers(1, 24))
@example(448 * 3, 448 * 2, 12)
@example(2688, 896, 12)
def test_grid_is_in_bounds_and_that_of_brute_force(width, height, max_tiles):
    columns, rows = plan_tiles((width, height), max_tiles=max_tiles)
    assert columns >= 1
    assert rows >= 1
    assert columns * rows <= max_tiles
    assert (columns, rows) in brute_force(width, height, max_tiles)


@many
@given(sides, sides, st.integers(1, 12), st.integers(1, 12))
def test_bounds_from_below_hold_where_they_leave_a_grid(width, height, min_tiles, more):
    columns, rows = plan_tiles((width, height), min_tiles=min_tiles, max_tiles=min_tiles + more)
    assert min_tiles <= columns * rows <= min_tiles + more


@many
@given(sides, sides, st.integers(1, 12))
@example(448, 448, 12)
def test_grid_is_that_of_transformers(width, height, max_tiles):
    expected = get_optimal_tiled_canvas((height, width), (448, 448), 1, max_tiles)
    assert plan_tiles((width, height), max_tiles=max_tiles) == expected


def test_a_large_image_takes_the_largest_grid_of_its_ratio():
    grids = [(i, j) for i in range(1, 13) for j in range(1, 13) if i * j <= 12]
    for i, j in grids:
        largest = max(grid for grid in grids if Fraction(*grid) == Fraction(i, j))
        assert plan_tiles((10_000 * i, 10_000 * j), max_tiles=12) == largest


def test_the_drivelm_canvas_takes_13_tiles():
    layout = ViewLayout(mode="canvas", max_tiles=12)
    assert plan_tiles((2688, 896)) == (6, 2)
    assert tiles_per_image([(1600, 900)] * 6, layout) == [13]


def test_six_separate_views_take_18_tiles():
    assert tiles_per_image([(1600, 900)] * 6, ViewLayout(max_tiles=2)) == [3] * 6


def test_in_canvas_mode_other_images_share_the_budget():
    layout = ViewLayout(tile_size=28, mode="canvas", max_tiles=12, thumbnail=False)
    assert tiles_per_image([(400, 300)] * 2, layout) == [6, 6]
    assert tiles_per_image([(2800, 100)], layout) == [12]


def test_everything_wrong_with_a_layout_is_said_at_once():
    with pytest.raises(LayoutError, match="mode.*tile_size.*CAM_TOP.*0 for CAM_BACK"):
        ViewLayout(mode="mosaic", tile_size=0, camera_max_tiles={"CAM_TOP": 1, "CAM_BACK": 0})
    with pytest.raises(LayoutError, match="camera_max_tiles.*canvas"):
        ViewLayout(mode="canvas", camera_max_tiles={"CAM_BACK": 2})
    assert hash(ViewLayout(camera_max_tiles={"CAM_BACK": 2})) == hash(ViewLayout())


@pytest.mark.parametrize("change", [{"mode": "mosaic"}, {"tile_size": 0}, {"max_tiles": 0}])
def test_a_layout_that_cannot_be_is_refused(change):
    with pytest.raises(LayoutError, match=next(iter(change))):
        ViewLayout(**change)


@pytest.mark.parametrize(("size", "bounds"), [((0, 5), {}), ((5, 5), {"min_tiles": 3, "max_tiles": 2})])
def test_sizes_and_bounds_without_a_grid_are_refused(size, bounds):
    with pytest.raises(LayoutError):
        plan_tiles(size, **bounds)
