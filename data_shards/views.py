"""Encoded images in, JPEGs of another size out: camera views at training size, other images within a longest side."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from PIL import ExifTags, Image, ImageOps

from data_shards.decode import MAX_PIXELS, ImageError, decode_jpeg, jpeg_size
from data_shards.schema import RawFrame

JPEG_QUALITY = 95
_OTHER_FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG")
_JPEG_START = b"\xff\xd8"


def resize_views(frames: Iterator[RawFrame], size: tuple[int, int] | None) -> Iterator[RawFrame]:
    """The frames with every image at `size` (width, height); unchanged where None.

    Coordinates in questions refer to `VIEW_SIZE` whatever the stored size, so only the images change.

    Raises:
        ImageError: an image that does not decode; the message names frame and view.
    """
    for frame in frames:
        yield frame if size is None else replace(frame, images=_resized(frame, size))


def _resized(frame: RawFrame, size: tuple[int, int]) -> Mapping[str, bytes]:
    images = {}
    for name, data in frame.images.items():
        try:
            images[name] = data if jpeg_size(data) == size else encode_jpeg(_stretch(decode_jpeg(data), size))
        except ImageError as error:
            raise ImageError(f"{frame.key}: {name}: {error}") from error
    return images


def stored_jpeg(data: bytes, *, max_side: int | None = None, max_pixels: int = MAX_PIXELS) -> bytes:
    """An image file as the JPEG to store.

    A sound RGB or grey JPEG is kept byte for byte unless it is too long or its EXIF orientation turns it. PNG, WebP,
    GIF (its first picture), BMP, TIFF, CMYK and turned JPEGs are converted: upright, transparent parts on white, grey
    of 16 bits scaled to 8.

    Args:
        max_side: pixels; a longer image is made smaller, its ratio kept.
        max_pixels: largest width times height that is decoded.

    Raises:
        ImageError: not an image, a damaged one, one that is too large, or grey of 32 bits, whose range is not known.
    """
    pixels = _decoded(data, max_pixels)
    height, width = pixels.shape[:2]
    if max_side is not None and max(width, height) > max_side:
        scale = max_side / max(width, height)
        return encode_jpeg(_stretch(pixels, (max(1, round(width * scale)), max(1, round(height * scale)))))
    return data if _is_plain_jpeg(data) else encode_jpeg(pixels)


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """RGB [H, W, 3], uint8, as a JPEG of quality 95."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _stretch(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _is_plain_jpeg(data: bytes) -> bool:
    if not data.startswith(_JPEG_START):
        return False
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return _is_plain(image)


def _is_plain(image: Image.Image) -> bool:
    """Whether training decodes it as it is meant to be seen."""
    upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    return image.format == "JPEG" and image.mode in ("RGB", "L") and upright


def _decoded(data: bytes, max_pixels: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=_OTHER_FORMATS) as image:
            if _is_plain(image):
                return decode_jpeg(data, max_pixels=max_pixels)
            if image.width * image.height > max_pixels:
                raise ImageError(f"got {image.width}x{image.height} pixels, expected at most {max_pixels} in all")
            return np.array(_rgb(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"got a file of {len(data)} bytes that does not decode as an image ({error})") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ImageError(f"got grey pixels of 32 bits (mode {image.mode}), expected 8 or 16 bits; convert them first")
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image.convert("RGB")
