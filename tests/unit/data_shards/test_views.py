"""What is stored of image files of many kinds."""

import io

import numpy as np
import pytest
from PIL import Image

from data_shards.decode import ImageError, decode_jpeg, jpeg_size
from data_shards.views import stored_jpeg
from tests.helpers.frames import jpeg

RAMP = np.linspace(0, 65535, 40 * 30).reshape(30, 40)
HALVES = np.repeat([[0] * 20 + [255] * 20], 16, axis=0).astype(np.uint8)[..., None].repeat(3, axis=2)
"""Black on the left and white on the right, [16, 40, 3]."""

ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    image = Image.fromarray(HALVES)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    return encoded(image, kind, exif=exif.tobytes())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_keeps_its_range(kind):
    pixels = decode_jpeg(stored_jpeg(encoded(Image.fromarray(RAMP.astype(np.uint16)), kind)))
    assert np.abs(pixels[..., 0] - RAMP / 257).max() < 6


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_grey_of_32_bits_is_refused(dtype):
    with pytest.raises(ImageError, match="grey pixels of 32 bits"):
        stored_jpeg(encoded(Image.fromarray(RAMP.astype(dtype)), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("orientation", "size", "white"),
    [(3, (40, 16), np.s_[:, :15]), (6, (16, 40), np.s_[25:]), (8, (16, 40), np.s_[:15]), (2, (40, 16), np.s_[:, :15])],
)
def test_a_turned_image_is_stored_upright(kind, orientation, size, white):
    stored = stored_jpeg(turned(orientation, kind))
    assert jpeg_size(stored) == size
    pixels = decode_jpeg(stored)
    assert pixels[white].min() > 240
    assert pixels.mean() < 140
    assert ORIENTATION not in Image.open(io.BytesIO(stored)).getexif()


def test_an_upright_jpeg_is_kept_byte_for_byte():
    for data in (jpeg(HALVES), turned(1), jpeg(HALVES[..., 0])):
        assert stored_jpeg(data) == data


def test_a_turned_jpeg_that_is_too_long_is_made_smaller_upright():
    assert jpeg_size(stored_jpeg(turned(6), max_side=20)) == (8, 20)
