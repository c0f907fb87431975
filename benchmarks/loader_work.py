"""Frames of six JPEGs in; processor time of a loader's worker for a frame, and of bare work on bytes in memory, out.

`python -m benchmarks.loader_work --images nuscenes/samples [--rounds 7] [--out runs/bench/loader_work.json]`

What `loader_speed` measures by the clock, for a machine that others use: each round makes one pack of three frames in a
worker set up as the loader's are, and the best round counts. The hand-over to the parent, a message of some hundred
bytes, is left out.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils import worker

from benchmarks.loader_speed import (
    FRAMES_A_PACK,
    LAYOUT,
    TILES_A_FRAME,
    decode_views,
    image_stream,
    tiling,
    write_frames,
)
from data_shards.atomic import write_json
from data_shards.frame_dataset import FrameDataset, SlottedBatch
from data_shards.index import DatasetIndex, load_index
from data_shards.loader import FrameSource
from data_shards.loader_worker import start_worker
from data_shards.plan import PackPlan
from data_shards.read import read_frame
from data_shards.slots import TileSlots

MAX_TILES = TILES_A_FRAME * FRAMES_A_PACK


def main(arguments: Sequence[str] | None = None) -> int:
    """Print milliseconds a frame and their ratio; write them as JSON where a file is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader_work", description=__doc__)
    parser.add_argument("--images", type=Path, help="folder with CAM_FRONT, CAM_BACK, ... of 1600x900 JPEGs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_frames(Path(folder), options.images)
        for name in ("original", "stored"):
            index = load_index(Path(folder) / name)
            kinds = {"bare": bare_ms, "tiled": tiled_ms, "loader": loader_ms}
            own = {kind: in_worker(measure, index, options.rounds) for kind, measure in kinds.items()}
            result |= {f"{name} {kind}, ms": value for kind, value in own.items()}
            result |= {f"{name} {kind} / loader": own[kind] / own["loader"] for kind in ("bare", "tiled")}
    for name, value in result.items():
        print(f"{name:<28}{value:8.2f}")
    if options.out:
        write_json(options.out, result)
    return 0


def loader_ms(index: DatasetIndex, rounds: int) -> float:
    """Read, check, decode, tile and leave in shared memory; as a loader's worker, which keeps freed memory."""
    source = FrameSource(name="d", index=index)
    plan = first_pack(source)
    slots = TileSlots(workers=1, per_worker=1, slot_bytes=MAX_TILES * 3 * LAYOUT.tile_size**2)
    dataset = FrameDataset([source], LAYOUT, None, slots)
    start_worker(0)
    worker._worker_info = worker.WorkerInfo(id=0, num_workers=1, seed=0, dataset=dataset)
    assert get_worker_info() is not None

    def make() -> None:
        made = dataset[plan]
        assert isinstance(made, SlottedBatch)
        slots.put_back(made.slot)

    return best_ms(make, rounds) / len(plan.visits)


def bare_ms(index: DatasetIndex, rounds: int) -> float:
    """Six decodes and resizes of bytes in memory for each of the same frames."""
    return in_memory_ms(decode_views, index, rounds)


def tiled_ms(index: DatasetIndex, rounds: int) -> float:
    """All tiles of bytes in memory, thumbnails too, for each of the same frames."""
    return in_memory_ms(tiling(), index, rounds)


def in_memory_ms(work: Callable[[Mapping[str, bytes]], object], index: DatasetIndex, rounds: int) -> float:
    """Work on the images of each frame of the first pack."""
    start_worker(0)
    plan = first_pack(FrameSource(name="d", index=index))
    frames = [read_frame(index, visit.sample).images for visit in plan.visits]

    def make() -> None:
        for images in frames:
            work(images)

    return best_ms(make, rounds) / len(frames)


def first_pack(source: FrameSource) -> PackPlan:
    """Three frames."""
    stream = image_stream(source.index)
    return stream.pack(stream.start)


def best_ms(make: Callable[[], None], rounds: int) -> float:
    """Least processor time of some rounds after one to warm up, in milliseconds."""
    times = []
    for _ in range(rounds + 1):
        began = time.process_time()
        make()
        times.append(time.process_time() - began)
    return 1000 * min(times[1:])


def in_worker(measure: Callable[[DatasetIndex, int], float], index: DatasetIndex, rounds: int) -> float:
    """The same in a process of its own, forked."""
    context: Any = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put(measure(index, rounds)))
    process.start()
    result = queue.get()
    process.join()
    return float(result)


if __name__ == "__main__":
    sys.exit(main())
