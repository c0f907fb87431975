"""Tiles against those of Pillow, of drawn images and of the real views; as many as the layout plans."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from data_shards.decode import ImageError, decode_jpeg
from data_shards.schema import CAMERAS
from data_shards.tiling import stitch_views, tile_images, tile_jpegs
from data_shards.view_layout import LayoutError, ViewLayout, tiles_per_image
from tests.helpers.frames import jpeg, noise
from tests.helpers.paths import DRIVELM_SAMPLE, needs_drivelm_sample

few = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def real_frames(count):
    paths = {camera: sorted((DRIVELM_SAMPLE / "samples" / camera).glob("*.jpg")) for camera in CAMERAS}
    return [{camera: paths[camera][i].read_bytes() for camera in CAMERAS} for i in range(count)]


def pillow_tiles(picture, columns, rows, side):
    """With Pillow's own resize and crop."""
    resized = picture.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
    tiles = [np.asarray(resized.crop((x, y, x + side, y + side))) for x, y in corners]
    if len(tiles) > 1:
        tiles.append(np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)))
    return np.stack(tiles)


def pillow_canvas(frame, side, names):
    canvas = Image.new("RGB", (6 * side, 2 * side))
    for i, camera in enumerate(CAMERAS):
        view = Image.open(io.BytesIO(frame[camera])).convert("RGB").resize((2 * side, side), Image.Resampling.BICUBIC)
        if names:
            ImageDraw.Draw(view).text((0, 0), camera, fill=(255, 255, 255), font=ImageFont.load_default(side // 14))
        canvas.paste(view, (i % 3 * 2 * side, i // 3 * side))
    return canvas


def mean_difference(a, b):
    assert a.shape == b.shape
    return np.abs(a.astype(int) - b).mean()


@few
@given(
    st.lists(st.tuples(st.integers(1, 150), st.integers(1, 150)), max_size=7),
    st.builds(
        ViewLayout,
        tile_size=st.sampled_from([14, 28]),
        mode=st.sampled_from(["views", "canvas"]),
        max_tiles=st.integers(1, 12),
        thumbnail=st.booleans(),
        dynamic_resolution=st.booleans(),
        exact=st.booleans(),
    ),
)
def test_tiles_of_encoded_and_decoded_images_are_as_many_as_planned(sizes, layout):
    rng = np.random.default_rng(3)
    images = {f"IMAGE_{i}": jpeg(noise(rng, *size)) for i, size in enumerate(sizes)}
    planned = tiles_per_image(sizes, layout)
    tiles, counts = tile_jpegs(images, layout)
    assert counts == planned
    assert tiles.shape == (sum(planned), layout.tile_size, layout.tile_size, 3)
    assert tiles.dtype == np.uint8
    decoded = tile_images([decode_jpeg(data, exact=layout.exact) for data in images.values()], layout)
    assert tiles.shape == decoded.shape
    if layout.exact:
        np.testing.assert_array_equal(tiles, decoded)


def test_tiles_are_row_by_row_and_the_thumbnail_is_last():
    image = noise(np.random.default_rng(0), 3 * 56, 2 * 56)
    tiles = tile_images([image], ViewLayout(tile_size=56, max_tiles=6, exact=True))
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


@needs_drivelm_sample
@pytest.mark.parametrize("names", [True, False])
def test_exact_tiles_of_the_real_canvas_are_those_of_pillow_and_fast_ones_are_near(names):
    frame = real_frames(1)[0]
    expected = pillow_tiles(pillow_canvas(frame, 448, names), 6, 2, 448)
    layout = ViewLayout(mode="canvas", draw_camera_names=names, exact=True)
    backwards = dict(reversed(frame.items()))
    np.testing.assert_array_equal(tile_jpegs(backwards, layout)[0], expected)
    fast, counts = tile_jpegs(frame, ViewLayout(mode="canvas", draw_camera_names=names))
    assert counts == [13]
    assert mean_difference(fast, expected) <= 1.5


@needs_drivelm_sample
@pytest.mark.parametrize(("tile_size", "max_tiles", "grid"), [(448, 2, (2, 1)), (448, 1, (1, 1)), (112, 1, (1, 1))])
def test_exact_tiles_of_real_views_are_those_of_pillow_and_fast_ones_are_near(tile_size, max_tiles, grid):
    frame = real_frames(1)[0]
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in frame.values()]
    expected = np.concatenate([pillow_tiles(picture, *grid, tile_size) for picture in pictures])
    layout = {"tile_size": tile_size, "max_tiles": max_tiles}
    np.testing.assert_array_equal(tile_jpegs(frame, ViewLayout(**layout, exact=True))[0], expected)
    difference = mean_difference(tile_jpegs(frame, ViewLayout(**layout))[0], expected)
    assert 0 < difference <= 1.5


def test_the_canvas_for_a_user_is_the_one_that_is_tiled():
    rng = np.random.default_rng(5)
    images = {camera: jpeg(noise(rng, 64, 36)) for camera in CAMERAS}
    for exact in (False, True):
        layout = ViewLayout(tile_size=28, mode="canvas", exact=exact)
        canvas = stitch_views([decode_jpeg(data, exact=exact) for data in images.values()], layout)
        assert canvas.shape == (56, 168, 3)
        expected = tile_images([canvas], ViewLayout(tile_size=28, max_tiles=12, exact=exact))
        np.testing.assert_array_equal(tile_jpegs(images, layout)[0], expected)


def test_a_camera_may_have_a_budget_of_its_own():
    rng = np.random.default_rng(6)
    images = {camera: jpeg(noise(rng, 160, 40)) for camera in (*CAMERAS, "IMAGE_0")}
    layout = ViewLayout(tile_size=28, max_tiles=2, camera_max_tiles={"CAM_FRONT": 4, "CAM_BACK": 1})
    expected = [3, 5, 3, 3, 1, 3, 3]
    assert tile_jpegs(images, layout)[1] == expected
    assert tiles_per_image([(160, 40)] * 7, layout, list(images)) == expected
    decoded = [decode_jpeg(data) for data in images.values()]
    assert len(tile_images(decoded, layout, list(images))) == sum(expected)
    with pytest.raises(LayoutError, match="7 images.*`names`"):
        tiles_per_image([(160, 40)] * 7, layout)
    assert tiles_per_image([], layout) == []


def test_a_bad_image_is_refused_by_tiling_too():
    good = jpeg(noise(np.random.default_rng(0), 64, 36))
    for exact in (False, True):
        layout = ViewLayout(tile_size=28, max_tiles=1, exact=exact)
        with pytest.raises(ImageError, match="damaged or cut"):
            tile_jpegs({"IMAGE_0": good, "IMAGE_1": good[:-20]}, layout)
        with pytest.raises(ImageError, match="64x36.*expected at most 2000"):
            tile_jpegs({"IMAGE_0": good}, layout, max_pixels=2000)
