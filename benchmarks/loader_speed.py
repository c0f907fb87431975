"""Frames of six JPEGs in; frames/s of the loader, of bare work on bytes in memory, and of webdataset with Pillow out.

`python benchmarks/loader_speed.py --images nuscenes/samples` writes small shards of originals and of
views stored at training size, and runs each pipeline in turn, several rounds, in equally many processes. Every pipeline
gives the 13 tiles of a 2688x896 canvas but `bare`, which decodes and resizes the six views and stops there; `tiled`
does all of a frame's work on pixels, without reading, checking and handing over. Without `--images` the pictures are
drawn at random.
"""

import argparse
import functools
import io
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from data_shards.atomic import write_json
from data_shards.decode import decode_picture, resize
from data_shards.index import DatasetIndex, load_index
from data_shards.lengths import shard_numbers, tile_sizes
from data_shards.loader import FrameSource, PackLoader
from data_shards.mixture import MixtureEntry, PackLimits
from data_shards.plan import PackStream
from data_shards.read import read_frame
from data_shards.schema import CAMERAS, RawFrame
from data_shards.tiling import tile_jpegs
from data_shards.view_layout import ViewLayout
from data_shards.write import write_shards

CELL = (896, 448)
NUM_FRAMES = 24
FRAMES_A_PACK = 3
TILES_A_FRAME = 13
LAYOUT = ViewLayout(mode="canvas", max_tiles=12, draw_camera_names=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, and write it as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with CAM_FRONT, CAM_BACK, ... of 1600x900 JPEGs")
    parser.add_argument("--processes", type=int, default=2, help="of each pipeline (default: 2)")
    parser.add_argument(
        "--prefetch", type=int, default=2, help="packs each worker of the loader makes ahead (default: 2)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken (default: 5)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each pipeline in each round (default: 6)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    loader = functools.partial(loader_frames, prefetch=options.prefetch)
    pipelines: dict[str, Callable[[Path, int, float], float]]
    pipelines = {"loader": loader, "bare": bare_frames, "tiled": tiled_frames, "pillow": pillow_frames}
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_frames(Path(folder), options.images)
        for _ in range(options.rounds):
            for name in ("original", "stored"):
                for kind, pipeline in pipelines.items():
                    count = pipeline(Path(folder) / name, options.processes, options.seconds)
                    rates.setdefault(f"{name} {kind}", []).append(count)
    medians = {name: round(statistics.median(values), 2) for name, values in rates.items()}
    result: dict[str, Any] = {"processes": options.processes, "frames_per_s": medians, "rounds": rates}
    result["ratios"] = {
        "original loader / bare": medians["original loader"] / medians["original bare"],
        "stored loader / bare": medians["stored loader"] / medians["stored bare"],
        "original loader / tiled": medians["original loader"] / medians["original tiled"],
        "stored loader / tiled": medians["stored loader"] / medians["stored tiled"],
        "original loader / webdataset + Pillow": medians["original loader"] / medians["original pillow"],
        "stored loader / webdataset + Pillow on originals": medians["stored loader"] / medians["original pillow"],
        "stored loader / webdataset + Pillow on stored": medians["stored loader"] / medians["stored pillow"],
    }
    for name, value in (*medians.items(), *result["ratios"].items()):
        print(f"{name:<52}{value:8.2f}")
    if options.out:
        write_json(options.out, result)
    return 0


def write_frames(folder: Path, images: Path | None) -> None:
    """Shards of the frames as they are, and with each view at training size."""
    views = {name: _pictures(images, name) for name in CAMERAS}
    originals = [_frame(i, {name: next(views[name]) for name in CAMERAS}) for i in range(NUM_FRAMES)]
    stored = [_frame(i, {name: _stored(data) for name, data in f.images.items()}) for i, f in enumerate(originals)]
    for name, frames in (("original", originals), ("stored", stored)):
        write_shards(frames, folder / name, source="benchmark", licence="none", samples_per_shard=12)


def loader_frames(shards: Path, processes: int, seconds: float, *, prefetch: int = 2) -> float:
    """The project's loader, for a job on images: read, check, decode, tile, hand over."""
    source = FrameSource(name="d", index=load_index(shards))
    loader = PackLoader(
        [source],
        image_stream(source.index),
        layout=LAYOUT,
        workers=processes,
        prefetch=prefetch,
        max_tiles=TILES_A_FRAME * FRAMES_A_PACK,
    )
    return _rate((step[0].meta.num_samples for step in loader), seconds)


def image_stream(index: DatasetIndex) -> PackStream:
    """Packs of `FRAMES_A_PACK` frames without questions."""
    entry = MixtureEntry(sizes=tile_sizes(index, LAYOUT), weight=1.0, shards=shard_numbers(index))
    return PackStream([entry], PackLimits(max_tokens=1, max_tiles=TILES_A_FRAME * FRAMES_A_PACK), 1, 0)


def bare_frames(shards: Path, processes: int, seconds: float) -> float:
    """Six decodes and resizes of bytes in memory, in processes that hand nothing over; the same decoder and filter."""
    frames = _in_memory(shards)
    return _in_processes(lambda: _repeat(decode_views, frames), processes, seconds)


def tiled_frames(shards: Path, processes: int, seconds: float) -> float:
    """All 13 tiles of bytes in memory, by the loader's own function and into memory that is used again."""
    frames = _in_memory(shards)
    return _in_processes(lambda: _repeat(tiling(), frames), processes, seconds)


def pillow_frames(shards: Path, processes: int, seconds: float) -> float:
    """webdataset with Pillow doing the same work, batches of as many frames, in DataLoader workers."""
    urls = sorted(map(str, shards.glob("*.tar"))) * 1000
    dataset = webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=None).map(_pillow_tiles)
    loader = DataLoader(dataset.batched(FRAMES_A_PACK, collation_fn=np.concatenate), None, num_workers=processes)
    return _rate((len(tiles) // TILES_A_FRAME for tiles in map(torch.as_tensor, loader)), seconds)


def decode_views(images: Mapping[str, bytes]) -> None:
    """Decode and resize the six views, each by itself."""
    for data in images.values():
        resize(decode_picture(data, CELL), CELL)


def tiling() -> Callable[[Mapping[str, bytes]], object]:
    """Makes the tiles of a frame, always in the same memory."""
    room = np.empty((TILES_A_FRAME, LAYOUT.tile_size, LAYOUT.tile_size, 3), np.uint8)
    return functools.partial(tile_jpegs, layout=LAYOUT, allocate=lambda _: room)


def _in_memory(shards: Path) -> list[Mapping[str, bytes]]:
    index = load_index(shards)
    return [read_frame(index, i).images for i in range(len(index))]


def _repeat(work: Callable[[Mapping[str, bytes]], object], frames: Sequence[Mapping[str, bytes]]) -> Iterator[int]:
    for images in itertools.cycle(frames):
        work(images)
        yield 1


def _pillow_tiles(sample: dict[str, Any]) -> np.ndarray:
    canvas = Image.new("RGB", (3 * CELL[0], 2 * CELL[1]))
    for i, camera in enumerate(CAMERAS):
        view = Image.open(io.BytesIO(sample[f"{camera.lower()}.jpg"])).convert("RGB")
        view = view if view.size == CELL else view.resize(CELL, Image.Resampling.BICUBIC)
        canvas.paste(view, (i % 3 * CELL[0], i // 3 * CELL[1]))
    tiles = np.asarray(canvas).reshape(2, 448, 6, 448, 3).swapaxes(1, 2).reshape(12, 448, 448, 3)
    thumbnail = np.asarray(canvas.resize((448, 448), Image.Resampling.BICUBIC))
    return np.concatenate([tiles, thumbnail[None]])


def _rate(counts: Iterator[int], seconds: float) -> float:
    """Frames a second, once as many packs have come as are made ahead."""
    for _ in range(4):
        next(counts)
    begin, frames = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        frames += next(counts)
    rate = frames / (time.perf_counter() - begin)
    counts.close()  # type: ignore[attr-defined]
    return rate


def _in_processes(make: Callable[[], Iterator[int]], processes: int, seconds: float) -> float:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def work() -> None:
        torch.set_num_threads(1)
        queue.put(_rate(make(), seconds))

    workers = [context.Process(target=work) for _ in range(processes)]
    for worker in workers:
        worker.start()
    total = sum(queue.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total


def _pictures(images: Path | None, camera: str) -> Iterator[bytes]:
    if images is not None:
        return itertools.cycle([path.read_bytes() for path in sorted((images / camera).glob("*.jpg"))])
    return itertools.cycle([_drawn(np.random.default_rng([i, *camera.encode()])) for i in range(4)])


def _drawn(rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (90, 160, 3), dtype=np.uint8))
    return _encode(coarse.resize((1600, 900), Image.Resampling.BICUBIC))


def _stored(data: bytes) -> bytes:
    return _encode(Image.open(io.BytesIO(data)).convert("RGB").resize(CELL, Image.Resampling.BICUBIC))


def _encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _frame(number: int, images: dict[str, bytes]) -> RawFrame:
    return RawFrame(key=f"s_{number}", scene="s", frame=str(number), source="benchmark", images=images, questions=())


if __name__ == "__main__":
    sys.exit(main())
