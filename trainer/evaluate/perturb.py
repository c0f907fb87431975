"""The views of a frame in, the same views spoilt out: black, swapped, missing, or as weather and cameras spoil them.

Nothing here looks at the clock or at other frames: the same frame key and perturbation give the same pixels. The
corruptions are plain image formulas after ImageNet-C (Hendrycks and Dietterich 2019), as DriveBench uses for driving.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_shards.schema import CAMERAS

DEFAULT_STRENGTH = 0.5

_FOG_GREY = 224.0
_RAIN_GREY = 200.0
_NOISE_GRID = (4, 6)

Images = Mapping[str, np.ndarray]


class PerturbError(ValueError):
    """A perturbation that is not known or does not fit a frame; the message names got, expected and an example."""


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """What is done to the views.

    Attributes:
        kind: `black`, `shuffle-views`, `drop-view`, or a key of `CORRUPTIONS`.
        camera: of `drop-view`.
        strength: of a corruption, 0 (nothing) to 1.
    """

    kind: str
    camera: str = ""
    strength: float = DEFAULT_STRENGTH


def parse_perturbation(text: str) -> Perturbation:
    """`black`, `shuffle-views`, `drop-view:CAMERA`, or `fog|dark|motion-blur|rain[:STRENGTH]`.

    Raises:
        PerturbError: anything else.
    """
    kind, colon, value = text.partition(":")
    if kind in ("black", "shuffle-views") and not colon:
        return Perturbation(kind=kind)
    if kind == "drop-view" and value in CAMERAS:
        return Perturbation(kind=kind, camera=value)
    if kind in CORRUPTIONS:
        strength = _strength(value) if colon else DEFAULT_STRENGTH
        if strength is not None:
            return Perturbation(kind=kind, strength=strength)
    raise PerturbError(
        f"--perturb: got {text!r}, expected black, shuffle-views, drop-view:CAMERA with one of {', '.join(CAMERAS)}, "
        f"or one of {', '.join(CORRUPTIONS)} with a strength of 0 to 1, such as fog:0.5"
    )


def perturb(images: Images, perturbation: Perturbation, *, key: str) -> dict[str, np.ndarray]:
    """Spoil the views of one frame; names, their order and the sizes stay.

    Args:
        images: camera name to pixels [H, W, 3], uint8.
        perturbation: what is done.
        key: of the frame; seeds whatever is drawn.

    Returns:
        New arrays; the given ones are left as they are.

    Raises:
        PerturbError: a camera to drop that the frame lacks, or fewer than two views to shuffle.
    """
    if perturbation.kind == "black":
        return {name: np.zeros_like(image) for name, image in images.items()}
    if perturbation.kind == "drop-view":
        return _drop_view(images, perturbation.camera, key)
    if perturbation.kind == "shuffle-views":
        return _shuffle_views(images, key)
    corrupt = CORRUPTIONS[perturbation.kind]
    return {
        name: corrupt(image, perturbation.strength, _generator(key, name)).clip(0, 255).round().astype(np.uint8)
        for name, image in images.items()
    }


def fog(image_HW3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A grey veil, uneven, thickest at the height of the horizon: I (1 - t) + grey t, t at most `strength`."""
    height, width = image_HW3.shape[:2]
    distance = 1 - np.abs(np.linspace(-0.8, 1, height))[:, None] ** 1.5
    veil = strength * (0.35 + 0.65 * distance) * (0.75 + 0.25 * _clouds(height, width, rng))
    return image_HW3 * (1 - veil[..., None]) + _FOG_GREY * veil[..., None]


def dark(image_HW3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Less light (down to 6 % at strength 1) and the sensor noise that comes with it."""
    light = image_HW3 * (1 - 0.94 * strength)
    noise = rng.standard_normal(image_HW3.shape, dtype=np.float32) * strength
    return light + noise * (2 + 0.35 * np.sqrt(light))


def motion_blur(image_HW3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The mean along the way of a pan: horizontal, up to 6 % of the width, edges repeated; draws nothing."""
    width = image_HW3.shape[1]
    reach = round(0.03 * strength * width)
    padded = np.pad(image_HW3.astype(np.float64), ((0, 0), (reach + 1, reach), (0, 0)), mode="edge")
    sums = padded.cumsum(axis=1)
    return (sums[:, 2 * reach + 1 :] - sums[:, : -(2 * reach + 1)]) / (2 * reach + 1)


def rain(image_HW3: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Bright slanted streaks over a picture with less contrast."""
    height, width = image_HW3.shape[:2]
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    slant = rng.uniform(-0.35, 0.35)
    for _ in range(round(strength * 900)):
        x, y = rng.uniform(-0.1, 1.1) * width, rng.uniform(-0.1, 1) * height
        length = rng.uniform(0.03, 0.12) * height
        shade = int(rng.uniform(70, 190))
        draw.line((x, y, x + slant * length, y + length), fill=shade, width=max(1, width // 800))
    streaks = np.asarray(layer.filter(ImageFilter.GaussianBlur(max(0.4, width / 2000))), dtype=np.float32) / 255
    flat = image_HW3 * (1 - 0.35 * strength) + 0.35 * strength * 110
    return flat * (1 - streaks[..., None]) + _RAIN_GREY * streaks[..., None]


CORRUPTIONS: Mapping[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "fog": fog,
    "dark": dark,
    "motion-blur": motion_blur,
    "rain": rain,
}
"""Pixels [H, W, 3], strength 0..1 and a generator in, spoilt pixels (any float) out; strength 0 changes nothing."""


def _drop_view(images: Images, camera: str, key: str) -> dict[str, np.ndarray]:
    if camera not in images:
        raise PerturbError(
            f"{key}: --perturb drop-view: got a frame with the images {sorted(images)}, expected {camera} among them"
        )
    return {name: np.zeros_like(image) if name == camera else image.copy() for name, image in images.items()}


def _shuffle_views(images: Images, key: str) -> dict[str, np.ndarray]:
    """Each view under another one's name: the names in a drawn order, moved on by one."""
    if len(images) < 2:
        raise PerturbError(f"{key}: --perturb shuffle-views: got {len(images)} images, expected at least two")
    names = list(images)
    order = [names[i] for i in _generator(key, "").permutation(len(names))]
    source = dict(zip(order, order[1:] + order[:1], strict=True))
    return {name: images[source[name]].copy() for name in names}


def _clouds(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise [H, W] in 0..1."""
    coarse = Image.fromarray(rng.integers(0, 256, _NOISE_GRID, dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def _generator(key: str, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{key}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _strength(text: str) -> float | None:
    """A number in 0..1, None for any other text."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number <= 1 else None
