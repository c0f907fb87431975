"""The exported image processor against the trainer's own tiles, on the real views."""

import io

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor

from data_shards.schema import CAMERAS
from data_shards.tiling import stitch_views, tile_jpegs
from data_shards.view_layout import ViewLayout
from models.vision import IMAGE_MEAN, IMAGE_STD
from tests.helpers.paths import DRIVELM_SAMPLE, needs_drivelm_sample
from trainer.export_processor import image_processor, remarks
from trainer.preprocessing import Preprocessing


def stock_tiles(directory, layout, pictures):
    image_processor(Preprocessing(view=layout)).save_pretrained(directory)
    processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
    pixels = processor(images=pictures, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    return np.rint(255 * (pixels * np.array(IMAGE_STD) + np.array(IMAGE_MEAN))).astype(int)


def real_frame():
    return {camera: next((DRIVELM_SAMPLE / "samples" / camera).glob("*.jpg")).read_bytes() for camera in CAMERAS}


@needs_drivelm_sample
@pytest.mark.parametrize("tile_size", [448, 112])
@pytest.mark.parametrize("max_tiles", [1, 2])
def test_tiles_of_real_views_are_those_of_the_exported_processor(tmp_path, tile_size, max_tiles):
    frame = real_frame()
    exact = ViewLayout(tile_size=tile_size, max_tiles=max_tiles, exact=True)
    stock = stock_tiles(tmp_path, exact, [Image.open(io.BytesIO(data)) for data in frame.values()])
    np.testing.assert_array_equal(tile_jpegs(frame, exact)[0], stock)
    fast = tile_jpegs(frame, ViewLayout(tile_size=tile_size, max_tiles=max_tiles))[0]
    difference = np.abs(fast - stock).mean()
    assert 0 < difference <= 1.5


@needs_drivelm_sample
def test_tiles_of_the_real_canvas_are_those_of_the_exported_processor(tmp_path):
    frame = real_frame()
    exact = ViewLayout(mode="canvas", exact=True)
    views = [np.asarray(Image.open(io.BytesIO(frame[camera]))) for camera in CAMERAS]
    stock = stock_tiles(tmp_path, exact, [Image.fromarray(stitch_views(views, exact))])
    assert len(stock) == 13
    np.testing.assert_array_equal(tile_jpegs(frame, exact)[0], stock)
    assert np.abs(tile_jpegs(frame, ViewLayout(mode="canvas"))[0] - stock).mean() <= 1.5


def test_budgets_for_cameras_are_remarked():
    view = ViewLayout(max_tiles=2, camera_max_tiles={"CAM_FRONT": 6})
    [remark] = remarks(Preprocessing(view=view), custom=False)
    assert "up to 2 tiles" in remark
    assert "6 for CAM_FRONT" in remark
