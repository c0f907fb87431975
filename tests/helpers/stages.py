"""Random tiny models, a tokenizer and shards of made-up frames, and recipes over them, for tests of training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import yaml

from data_shards.chat import IMAGE_TOKEN
from data_shards.schema import CAMERAS, Question, RawFrame
from data_shards.tokenizer import load_tokenizer
from data_shards.write import write_shards
from models.presets import text_config, vision_config
from models.saving import save_model
from models.vlm import build_language, build_vision, join_vlm, load_language, load_vision
from tests.helpers.tokenizer import drivelm_sentences, tiny_tokenizer

TILE = 112
KINDS = ("perception", "prediction", "planning", "behavior")


def driving_frames(count: int, seed: int) -> list[RawFrame]:
    """Frames of six small random views with some questions each."""
    rng = np.random.default_rng(seed)
    lines = drivelm_sentences()
    frames = []
    for i in range(count):
        images = {camera: _jpeg(rng, 2 * TILE, TILE) for camera in CAMERAS}
        questions = tuple(
            Question(
                question=f"{lines[int(rng.integers(7))]} Case {q}?",
                answer=lines[int(rng.integers(len(lines)))],
                kind=KINDS[q % 4],
            )
            for q in range(int(rng.integers(3, 7)))
        )
        frames.append(
            RawFrame(
                key=f"s{i:03d}_{i}", scene=f"s{i:03d}", frame=str(i), source="test", images=images, questions=questions
            )
        )
    return frames


def general_frames(count: int, seed: int) -> list[RawFrame]:
    """Frames of one image with one question; every third has no image at all."""
    rng = np.random.default_rng(seed)
    lines = drivelm_sentences()
    return [
        RawFrame(
            key=f"g{i:03d}_0",
            scene=f"g{i:03d}",
            frame="0",
            source="test-general",
            images={} if i % 3 == 0 else {"IMAGE_0": _jpeg(rng, TILE, TILE)},
            questions=(Question(question=f"Say {i}.", answer=lines[i % len(lines)], kind="general"),),
        )
        for i in range(count)
    ]


def make_world(root: Path, *, frames: int = 12) -> Path:
    """Shards, teacher, language model and tokenizer under `root`, all random, all seeded; returns `root`."""
    write_shards(driving_frames(frames, 1), root / "driving", source="test", licence="none")
    write_shards(general_frames(frames, 2), root / "general", source="test", licence="none")
    tokenizer = tiny_tokenizer(root)
    tokenizer.save_pretrained(root / "tokenizer")
    generator = torch.Generator().manual_seed(3)
    save_model(build_vision(vision_config("tiny-teacher"), generator), root / "teacher")
    save_model(build_language(text_config("tiny-lm", vocab_size=len(tokenizer)), generator), root / "language")
    return root


def make_teacher_vlm(root: Path) -> Path:
    """The teacher and the language model of `make_world(root)` as a whole model with its tokenizer; its directory."""
    directory = root / "teacher-vlm"
    if not directory.exists():
        tokenizer = load_tokenizer(root / "tokenizer")
        generator = torch.Generator().manual_seed(4)
        token = int(tokenizer.get_vocab()[IMAGE_TOKEN])
        parts = load_vision(root / "teacher"), load_language(root / "language")
        save_model(join_vlm(*parts, image_token_id=token, generator=generator), directory)
        tokenizer.save_pretrained(directory)
    return directory


def write_recipe(root: Path, stage: str, run_dir: Path, **changes: Any) -> Path:
    """A recipe for a stage over `make_world(root)`; `changes` are merged into it, sections by key."""
    models = {
        "distill": {"teacher": str(root / "teacher"), "student": "tiny-student"},
        "align": {"vision": "tiny-student", "language": str(root / "language"), "tokenizer": str(root / "tokenizer")},
        "finetune": {"vlm": str(root / "align" / "model")},
    }
    recipe: dict[str, Any] = {
        "stage": stage,
        "seed": 7,
        "run_dir": str(run_dir),
        "steps": 4,
        "log_every": 1,
        "checkpoint_every": 0,
        "model": models[stage],
        "data": {
            "datasets": [{"path": str(root / "driving")}, {"path": str(root / "general"), "weight": 1.0}],
            "view": {"tile_size": TILE, "mode": "canvas", "max_tiles": 12},
            "max_tokens": 700,
            "max_tiles": 26,
            "questions_per_visit": 4,
            "workers": 0,
        },
        "optim": {"lr": 1e-3},
        "distill": {"codebook_size": 32, "codebook_tiles": 26, "last_k": 2},
    }
    for name, value in changes.items():
        recipe[name] = {**recipe.get(name, {}), **value} if isinstance(value, Mapping) else value
    path = root / f"{run_dir.name}-{stage}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def _jpeg(rng: np.random.Generator, width: int, height: int) -> bytes:
    coarse = rng.integers(0, 256, (height // 14, width // 14, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(coarse.repeat(14, 0).repeat(14, 1)), quality=90)
