"""Six camera JPEGs in; processor time to decode and tile them on one core out, beside plain Pillow.

`python -m benchmarks.tiles --images DIR [--repeats 7]`; DIR holds CAM_FRONT, CAM_BACK, ... with 1600x900 JPEGs.
"""

import argparse
import io
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data_shards.schema import CAMERAS
from data_shards.tiling import tile_jpegs
from data_shards.view_layout import ViewLayout

SIDE = 448


def with_pillow(images: Mapping[str, bytes]) -> np.ndarray:
    """The canvas of 2688x896 without camera names, and its thumbnail, [13, 448, 448, 3]."""
    canvas = Image.new("RGB", (6 * SIDE, 2 * SIDE))
    for i, name in enumerate(CAMERAS):
        view = Image.open(io.BytesIO(images[name])).convert("RGB").resize((2 * SIDE, SIDE), Image.Resampling.BICUBIC)
        canvas.paste(view, ((i % 3) * 2 * SIDE, (i // 3) * SIDE))
    corners = [(x * SIDE, y * SIDE) for y in range(2) for x in range(6)]
    tiles = [canvas.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners]
    return np.stack([np.asarray(tile) for tile in (*tiles, canvas.resize((SIDE, SIDE), Image.Resampling.BICUBIC))])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiles", description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    views = zip(*(sorted((options.images / name).glob("*.jpg"))[:5] for name in CAMERAS), strict=False)
    frames = [{name: path.read_bytes() for name, path in zip(CAMERAS, paths, strict=True)} for paths in views]
    exact, fast = (ViewLayout(mode="canvas", draw_camera_names=False, exact=flag) for flag in (True, False))
    ways = {
        "Pillow": with_pillow,
        "exact": lambda images: tile_jpegs(images, exact)[0],
        "default": lambda images: tile_jpegs(images, fast)[0],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for images in frames:
            for name, way in ways.items():
                begin = time.process_time()
                way(images)
                seconds[name].append(time.process_time() - begin)
    for name, way in ways.items():
        gap = np.abs(np.stack([way(f).astype(int) - with_pillow(f) for f in frames]))
        print(f"{name}: {1 / np.median(seconds[name]):.1f} frames/s, off Pillow {gap.mean():.4f} (at most {gap.max()})")


if __name__ == "__main__":
    main()
