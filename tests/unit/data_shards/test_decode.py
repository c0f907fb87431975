"""JPEG decoding against Pillow, and refusal from the header alone."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from data_shards.decode import MAX_PIXELS, ImageError, Picture, decode_jpeg, decode_picture, jpeg_size, resize
from tests.helpers.frames import jpeg, noise
from tests.helpers.paths import DRIVELM_SAMPLE, needs_drivelm_sample


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def bicubic(image, size):
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def difference(a, b):
    return np.abs(a.astype(int) - b)


def test_pixels_are_near_those_of_pillow():
    data = jpeg(noise(np.random.default_rng(0), 161, 90))
    pixels = decode_jpeg(data)
    reference = pillow(data)
    assert pixels.shape == reference.shape == (90, 161, 3)
    assert pixels.dtype == np.uint8
    assert difference(pixels, reference).mean() < 0.5


def test_exact_pixels_are_those_of_pillow():
    rng = np.random.default_rng(0)
    for data in (jpeg(noise(rng, 161, 90)), jpeg(noise(rng, 33, 20)[:, :, 0])):
        np.testing.assert_array_equal(decode_jpeg(data, exact=True), pillow(data))


@needs_drivelm_sample
def test_exact_pixels_of_real_views_are_those_of_pillow():
    for path in sorted(DRIVELM_SAMPLE.glob("samples/*/*.jpg"))[::9]:
        data = path.read_bytes()
        np.testing.assert_array_equal(decode_jpeg(data, exact=True), pillow(data))
        assert difference(decode_jpeg(data), pillow(data)).mean() < 0.5


@pytest.mark.parametrize(
    ("target", "divisor"), [((160, 90), 1), ((81, 40), 1), ((80, 45), 2), ((40, 46), 1), ((30, 20), 4), ((1, 1), 8)]
)
def test_a_picture_is_decoded_at_the_smallest_fraction_not_below_the_target(target, divisor):
    data = jpeg(noise(np.random.default_rng(0), 161, 91))
    picture = decode_picture(data, target)
    assert picture.extent == (161 / divisor, 91 / divisor)
    assert picture.pixels.shape == (-(-91 // divisor), -(-161 // divisor), 3)
    assert decode_picture(data, target, exact=True).pixels.shape == (91, 161, 3)


@pytest.mark.parametrize("target", [(75, 40), (37, 21), (18, 11), (161, 91), (300, 200), (40, 300)])
def test_resizing_is_that_of_pillow(target):
    image = noise(np.random.default_rng(0), 161, 91)
    data = jpeg(image)
    whole = Picture(pixels=pillow(data), extent=(161, 91))
    expected = bicubic(whole.pixels, target)
    np.testing.assert_array_equal(resize(whole, target, exact=True), expected)
    assert difference(resize(whole, target), expected).max() <= 2
    assert difference(resize(whole, target), expected).mean() < 0.1
    reduced = decode_picture(data, target)
    assert resize(reduced, target).shape == expected.shape
    assert difference(resize(reduced, target), expected).mean() < 1.0


def test_a_fraction_of_an_odd_size_is_not_shifted():
    image = np.repeat(np.linspace(0, 255, 121)[:, None, None], 90, axis=1).repeat(3, axis=2).astype(np.uint8)
    picture = decode_picture(jpeg(image, quality=98), (10, 14))
    assert picture.extent == (90 / 8, 121 / 8)
    ramp = resize(picture, (10, 14))[:, :, 0].astype(float).mean(axis=1)
    unaware = resize(Picture(pixels=picture.pixels, extent=picture.pixels.shape[1::-1]), (10, 14))
    expected = bicubic(image, (10, 14))[:, :, 0].astype(float).mean(axis=1)
    assert np.abs(ramp - expected).max() < 3
    assert np.abs(unaware[:, :, 0].astype(float).mean(axis=1) - expected).max() > 6


def test_a_picture_of_the_size_asked_for_is_not_copied():
    picture = Picture(pixels=noise(np.random.default_rng(0), 20, 10), extent=(20, 10))
    assert resize(picture, (20, 10)) is picture.pixels


def test_size_is_width_then_height():
    assert jpeg_size(jpeg(noise(np.random.default_rng(0), 161, 90))) == (161, 90)


def test_a_grey_image_becomes_three_equal_channels():
    grey = noise(np.random.default_rng(1), 20, 10)[:, :, 0]
    pixels = decode_jpeg(jpeg(grey))
    assert pixels.shape == (10, 20, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("exact", [False, True])
def test_an_image_of_exactly_the_limit_is_decoded_and_a_larger_one_refused(exact):
    data = jpeg(noise(np.random.default_rng(0), 30, 20))
    assert decode_jpeg(data, max_pixels=600, exact=exact).shape == (20, 30, 3)
    assert decode_picture(data, (3, 3), max_pixels=600, exact=exact).pixels.size > 0
    with pytest.raises(ImageError, match=r"30x20.*600.*599"):
        decode_jpeg(data, max_pixels=599, exact=exact)
    with pytest.raises(ImageError, match=r"30x20.*600.*599"):
        decode_picture(data, (3, 3), max_pixels=599, exact=exact)


def test_the_limit_is_50_megapixels_where_nothing_is_said():
    assert MAX_PIXELS == 50_000_000


def test_a_header_that_claims_a_huge_image_is_refused_before_decoding(monkeypatch):
    data = bytearray(jpeg(noise(np.random.default_rng(0), 30, 20)))
    start_of_frame = data.index(b"\xff\xc0")
    data[start_of_frame + 5 : start_of_frame + 9] = struct.pack(">HH", 60_000, 60_000)
    assert jpeg_size(bytes(data)) == (60_000, 60_000)

    def decode(*arguments, **keywords):
        raise AssertionError("decoded")

    monkeypatch.setattr("simplejpeg.decode_jpeg", decode)
    monkeypatch.setattr("PIL.Image.open", decode)
    for exact in (False, True):
        with pytest.raises(ImageError, match="60000x60000"):
            decode_jpeg(bytes(data), exact=exact)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n" + bytes(64), b"text"])
def test_bytes_that_are_no_jpeg_are_refused(data, exact):
    with pytest.raises(ImageError, match="expected a JPEG"):
        decode_jpeg(data, exact=exact)


@pytest.mark.parametrize("exact", [False, True])
def test_a_cut_jpeg_is_refused(exact):
    data = jpeg(noise(np.random.default_rng(0), 200, 100))
    with pytest.raises(ImageError, match="damaged or cut"):
        decode_jpeg(data[: len(data) // 2], exact=exact)
    with pytest.raises(ImageError, match="damaged or cut"):
        decode_picture(data[: len(data) // 2], (40, 20), exact=exact)
