"""JPEG decoding against Pillow, and refusal from the header alone."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from data_shards.decode import ImageError, decode_jpeg, jpeg_size
from tests.helpers.frames import jpeg, noise


def test_pixels_are_near_those_of_pillow():
    data = jpeg(noise(np.random.default_rng(0), 161, 90))
    pixels = decode_jpeg(data)
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert pixels.shape == reference.shape == (90, 161, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - reference).mean() < 0.5


def test_size_is_width_then_height():
    assert jpeg_size(jpeg(noise(np.random.default_rng(0), 161, 90))) == (161, 90)


def test_a_grey_image_becomes_three_equal_channels():
    grey = noise(np.random.default_rng(1), 20, 10)[:, :, 0]
    pixels = decode_jpeg(jpeg(grey))
    assert pixels.shape == (10, 20, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_an_image_of_exactly_the_limit_is_decoded_and_a_larger_one_refused():
    data = jpeg(noise(np.random.default_rng(0), 30, 20))
    assert decode_jpeg(data, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageError, match=r"30x20.*600.*599"):
        decode_jpeg(data, max_pixels=599)


def test_a_header_that_claims_a_huge_image_is_refused_before_decoding(monkeypatch):
    data = bytearray(jpeg(noise(np.random.default_rng(0), 30, 20)))
    start_of_frame = data.index(b"\xff\xc0")
    data[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", 60_000, 60_000)
    assert jpeg_size(bytes(data)) == (60_000, 60_000)

    def decode(*arguments, **keywords):
        raise AssertionError("decoded")

    monkeypatch.setattr("simplejpeg.decode_jpeg", decode)
    with pytest.raises(ImageError, match="60000x60000"):
        decode_jpeg(bytes(data))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n" + bytes(64), b"text"])
def test_bytes_that_are_no_jpeg_are_refused(data):
    with pytest.raises(ImageError, match="expected a JPEG"):
        decode_jpeg(data)


def test_a_cut_jpeg_is_refused():
    data = jpeg(noise(np.random.default_rng(0), 200, 100))
    with pytest.raises(ImageError, match="damaged or cut"):
        decode_jpeg(data[: len(data) // 2])
