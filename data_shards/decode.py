"""Encoded JPEG bytes in, pixels out; the header is checked before any pixel is decoded."""

import numpy as np
import simplejpeg

MAX_PIXELS = 64_000_000


class ImageError(ValueError):
    """Bytes that are no usable JPEG."""


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


def decode_jpeg(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a JPEG with libjpeg-turbo.

    Args:
        data: the encoded image, colour or grey.
        max_pixels: largest width times height; a larger image is refused from its header, before memory is taken.

    Returns:
        RGB pixels [H, W, 3], uint8.

    Raises:
        ImageError: no JPEG, a cut or damaged one, or one that is too large.
    """
    width, height = jpeg_size(data)
    if width * height > max_pixels:
        raise ImageError(
            f"image of {width}x{height}: got {width * height} pixels, expected at most {max_pixels}; "
            "make the image smaller or raise max_pixels"
        )
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        raise ImageError(f"image of {width}x{height}: damaged or cut JPEG data ({error})") from error
