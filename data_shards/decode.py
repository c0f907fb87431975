"""Encoded JPEG bytes in, pixels of the size asked for out; the header is checked before any pixel is decoded."""

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.nn import functional

MAX_PIXELS = 50_000_000
"""Largest width times height that is decoded where nothing else is said."""

_DCT_DIVISORS = (8, 4, 2)


class ImageError(ValueError):
    """Bytes that are no usable JPEG."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A decoded image, perhaps at a fraction of its size.

    Attributes:
        pixels: RGB [H, W, 3], uint8.
        extent: width and height of the image, counted in pixels of this array; where the image was decoded at a
            fraction of a size that does not divide, it ends inside the last column or row.
    """

    pixels: np.ndarray
    extent: tuple[float, float]


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header alone.

    Raises:
        ImageError: no JPEG header.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ImageError(f"image of {len(data)} bytes: got no JPEG header ({error}), expected a JPEG file") from error
    return width, height


def decode_jpeg(data: bytes, *, max_pixels: int = MAX_PIXELS, exact: bool = False) -> np.ndarray:
    """Decode a JPEG with libjpeg-turbo.

    Args:
        data: the encoded image, colour or grey.
        max_pixels: largest width times height; a larger image is refused from its header, before memory is taken.
        exact: decode through Pillow, so that the pixels are those which transformers' image processors see.

    Returns:
        RGB pixels [H, W, 3], uint8.

    Raises:
        ImageError: no JPEG, a cut or damaged one, or one that is too large.
    """
    width, height = _checked_size(data, max_pixels)
    return _pillow(data, width, height) if exact else _turbo(data, width, height, divisor=1)


def decode_picture(
    data: bytes, target: tuple[int, int], *, max_pixels: int = MAX_PIXELS, exact: bool = False
) -> Picture:
    """Decode a JPEG that is resized to `target` next.

    libjpeg-turbo can decode at N/8 of the size, by a smaller inverse DCT; of these 1/2, 1/4 and 1/8 cost less than the
    whole image, and the smallest of them that is no smaller than `target` is taken.

    Args:
        target: width and height in pixels.
        max_pixels, exact: as for `decode_jpeg`; `exact` decodes at full size.

    Raises:
        ImageError: as `decode_jpeg`.
    """
    width, height = _checked_size(data, max_pixels)
    if exact:
        return Picture(pixels=_pillow(data, width, height), extent=(width, height))
    fitting = (n for n in _DCT_DIVISORS if width >= target[0] * n and height >= target[1] * n)
    divisor = next(fitting, 1)
    return Picture(pixels=_turbo(data, width, height, divisor), extent=(width / divisor, height / divisor))


def resize(picture: Picture, size: tuple[int, int], *, exact: bool = False) -> np.ndarray:
    """Stretch to a size: bicubic, with the filter widened where the image shrinks.

    Args:
        size: width and height in pixels.
        exact: with Pillow; otherwise with torch's kernel for bytes, which computes the same up to rounding and is
            several times faster.

    Returns:
        RGB pixels [height, width, 3], uint8; the picture's own where nothing changes.
    """
    width, height = size
    if picture.pixels.shape[:2] == (height, width) and picture.extent == size:
        return picture.pixels
    if exact:
        return np.asarray(Image.fromarray(picture.pixels).resize(size, Image.Resampling.BICUBIC))
    pixels = np.require(picture.pixels, requirements=["C", "W"])
    pixels_13HW = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    if picture.extent == pixels.shape[1::-1]:
        resized = functional.interpolate(pixels_13HW, size=(height, width), mode="bicubic", antialias=True)
    else:
        # The kernel makes floor(pixels * scale) of them: a grain more, so that rounding never loses the last one.
        scale = (height / picture.extent[1] * (1 + 1e-9), width / picture.extent[0] * (1 + 1e-9))
        resized = functional.interpolate(pixels_13HW, scale_factor=scale, mode="bicubic", antialias=True)
    return resized[0, :, :height, :width].permute(1, 2, 0).numpy()


def _checked_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    width, height = jpeg_size(data)
    if width * height > max_pixels:
        raise ImageError(
            f"image of {width}x{height}: got {width * height} pixels, expected at most {max_pixels}; "
            "make the image smaller or raise max_pixels"
        )
    return width, height


def _turbo(data: bytes, width: int, height: int, divisor: int) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_width=-(-width // divisor), min_height=-(-height // divisor)
        )
    except ValueError as error:
        raise ImageError(f"image of {width}x{height}: damaged or cut JPEG data ({error})") from error


def _pillow(data: bytes, width: int, height: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"image of {width}x{height}: damaged or cut JPEG data ({error})") from error
