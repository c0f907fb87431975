"""A number of frames in, shards of made-up driving frames out: six views of 1600x900 and as many questions, as long as
those of DriveLM, so that to read, decode and tile them is as much work as real ones are.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data_shards.schema import CAMERAS, VIEW_SIZE, Question, RawFrame
from data_shards.views import encode_jpeg
from data_shards.write import write_shards

_COARSE = 16
"""Pixels between the points that a view is drawn from: smooth enough for files of a camera's size."""

_WORDS = (
    *("what", "is", "the", "moving", "status", "of", "object", "car", "truck", "going", "ahead", "turn"),
    *("left", "right", "yes", "no", "stopped", "red", "front", "back"),
)
_QUESTION_WORDS, _ANSWER_WORDS = 28, 14


def make_shards(directory: Path, frames: int, seed: int = 0) -> Path:
    """Write the shards; returns their directory."""
    write_shards(_frames(frames, seed), directory, source="made for a benchmark", licence="none", samples_per_shard=32)
    return directory


def _frames(count: int, seed: int) -> Iterator[RawFrame]:
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield RawFrame(
            key=f"made{number:05d}_0",
            scene=f"made{number:05d}",
            frame="0",
            source="made for a benchmark",
            images={camera: _view(rng) for camera in CAMERAS},
            questions=tuple(_question(rng) for _ in range(int(rng.integers(80, 100)))),
        )


def _view(rng: np.random.Generator) -> bytes:
    width, height = VIEW_SIZE
    coarse = rng.integers(0, 256, (height // _COARSE, width // _COARSE, 3), dtype=np.uint8)
    return encode_jpeg(np.asarray(Image.fromarray(coarse).resize(VIEW_SIZE, Image.Resampling.BICUBIC)))


def _question(rng: np.random.Generator) -> Question:
    return Question(question=_text(rng, _QUESTION_WORDS), answer=_text(rng, _ANSWER_WORDS), kind="perception")


def _text(rng: np.random.Generator, words: int) -> str:
    """Half as many words to one and a half times as many."""
    return " ".join(rng.choice(_WORDS, int(rng.integers(words // 2, words * 3 // 2 + 1))))
