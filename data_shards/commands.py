"""Parsed arguments of the writing subcommands in, shard directories out."""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from data_shards.build import DatasetJob, ShardJob, build_dataset, prepare_directory
from data_shards.dataset_file import DATASET_FILE
from data_shards.schema import RawFrame
from data_shards.sources import drivelm

_Item = TypeVar("_Item")

SYNTHETIC_SOURCES = {"driving": "synthetic", "general": "synthetic-general"}
_SYNTHETIC_LICENCE = "generated; holds no third-party content"


class UsageError(ValueError):
    """Arguments that cannot be carried out; the message names the argument, got and expected."""


def write_drivelm(options: argparse.Namespace) -> None:
    """Convert DriveLM annotations and nuScenes images; raises what `drivelm` and `build` raise, and UsageError."""
    key_frames = drivelm.load_key_frames(options.annotations, options.images, scenes=options.scenes)
    key_frames, skipped = drivelm.drop_missing(key_frames, options.images, skip_missing=options.skip_missing)
    build = {
        "form": options.form,
        "annotations_sha256": hashlib.sha256(options.annotations.read_bytes()).hexdigest(),
        "skipped_frames": skipped,
    }
    jobs = []
    for out_dir, scenes in _splits(options, [key_frame.scene for key_frame in key_frames]):
        chosen = set(scenes)
        frames = [key_frame for key_frame in key_frames if key_frame.scene in chosen]
        shards = [
            ShardJob(
                number=number,
                num_frames=len(chunk),
                make_frames=partial(_make_drivelm, tuple(chunk), options.form, options.seed),
            )
            for number, chunk in enumerate(_chunks(frames, options.samples_per_shard))
        ]
        jobs.append(_dataset_job(options, out_dir, drivelm.SOURCE, drivelm.LICENCE, scenes, build, shards))
    if skipped:
        print(f"left out {skipped} frames without all six images", file=sys.stderr)
    _build(jobs, options)


def _make_drivelm(key_frames: Sequence[drivelm.KeyFrame], form: drivelm.Form, seed: int) -> Iterator[RawFrame]:
    return (drivelm.make_frame(key_frame, form=form, seed=seed) for key_frame in key_frames)


def write_synthetic(options: argparse.Namespace) -> None:
    """Render the synthetic world; raises what `build` raises, and UsageError."""
    build = {
        "family": options.family,
        "frames_per_scene": options.frames_per_scene,
        "image_width": options.image_width,
    }
    jobs = []
    for out_dir, scenes in _splits(options, [f"{number:08d}" for number in range(options.scenes)]):
        chunks = _chunks(
            [int(scene) for scene in scenes], max(1, options.samples_per_shard // options.frames_per_scene)
        )
        shards = [
            ShardJob(
                number=number,
                num_frames=len(chunk) * options.frames_per_scene,
                make_frames=partial(_make_synthetic, options.family, options.seed, tuple(chunk), build),
            )
            for number, chunk in enumerate(chunks)
        ]
        source = SYNTHETIC_SOURCES[options.family]
        jobs.append(_dataset_job(options, out_dir, source, _SYNTHETIC_LICENCE, scenes, build, shards))
    _build(jobs, options)


def _make_synthetic(family: str, seed: int, scenes: Sequence[int], build: Mapping[str, Any]) -> Iterator[RawFrame]:
    from data_shards.sources.synthetic import driving_frames, general_frames

    make = {"driving": driving_frames, "general": general_frames}[family]
    for scene in scenes:
        yield from make(
            seed=seed,
            scenes=range(scene, scene + 1),
            frames_per_scene=build["frames_per_scene"],
            image_width=build["image_width"],
        )


def _splits(options: argparse.Namespace, scenes: Sequence[str]) -> list[tuple[Path, list[str]]]:
    out: Path = options.out
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: got {out}, which is a file, expected a directory; name another path")
    if options.val_fraction is None:
        return [(out, sorted(set(scenes)))]
    if (out / DATASET_FILE).exists():
        raise UsageError(
            f"--out: got {out}, which holds {DATASET_FILE} of an unsplit dataset, expected an empty or new directory, "
            "or one with the splits train and val; name another path, or leave --val-fraction out"
        )
    train, val = drivelm.split_by_scene(scenes, options.val_fraction, options.seed)
    return [(out / "train", train), (out / "val", val)]


def _dataset_job(
    options: argparse.Namespace,
    out_dir: Path,
    source: str,
    licence: str,
    scenes: Sequence[str],
    build: Mapping[str, Any],
    shards: Sequence[ShardJob],
) -> DatasetJob:
    common = {
        "seed": options.seed,
        "val_fraction": options.val_fraction,
        "samples_per_shard": options.samples_per_shard,
        "num_scenes": len(scenes),
        "scenes_sha256": hashlib.sha256(",".join(scenes).encode()).hexdigest(),
    }
    return DatasetJob(out_dir=out_dir, source=source, licence=licence, build={**build, **common}, shards=shards)


def _build(jobs: Sequence[DatasetJob], options: argparse.Namespace) -> None:
    for job in jobs:
        prepare_directory(job)
    for job in jobs:
        info = build_dataset(job, workers=options.workers)
        print(
            f"{job.out_dir}: {info.num_samples} samples, {info.num_questions} questions, "
            f"{len(info.shards)} shards, {info.num_bytes:,} bytes"
        )


def _chunks(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
