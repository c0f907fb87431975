"""Small frames and shard directories for tests."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_shards.index import DatasetIndex, load_index
from data_shards.read import BadSample, read_frame
from data_shards.schema import CAMERAS, Question, RawFrame
from data_shards.write import write_shards


def noise(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Smooth coloured noise [H, W, 3], uint8, that JPEG keeps nearly unchanged."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def camera_frame(scene: str, frame: str, *, seed: int = 0, width: int = 32, height: int = 18) -> RawFrame:
    """A frame with six different camera images and two questions."""
    rng = np.random.default_rng([seed, *f"{scene}_{frame}".encode()])
    return RawFrame(
        key=f"{scene}_{frame}",
        scene=scene,
        frame=frame,
        source="test",
        images={camera: jpeg(noise(rng, width, height)) for camera in CAMERAS},
        questions=(
            Question(question=f"What is in {scene}?", answer=f"Größe {frame}.", kind="perception", tags=(2,)),
            Question(question="Is it?", answer="Yes.", kind="prediction"),
        ),
        objects={"<c1,CAM_BACK,1.0,2.0>": {"Category": "Vehicle", "Status": None, "Visual_description": "Red car."}},
    )


def camera_frames(num_scenes: int = 3, frames_per_scene: int = 2) -> list[RawFrame]:
    return [camera_frame(f"scene{s}", f"frame{f}") for s in range(num_scenes) for f in range(frames_per_scene)]


def write_dataset(directory: Path, frames: list[RawFrame], samples_per_shard: int = 2) -> DatasetIndex:
    write_shards(frames, directory, source="test", licence="none", samples_per_shard=samples_per_shard)
    return load_index(directory)


def read_all(index: DatasetIndex) -> list[RawFrame | BadSample]:
    """Of each position the frame, or the error it raised."""
    results: list[RawFrame | BadSample] = []
    for position in range(len(index)):
        try:
            results.append(read_frame(index, position))
        except BadSample as error:
            results.append(error)
    return results
