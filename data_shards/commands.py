"""Parsed arguments of the writing subcommands in, shard directories out."""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from data_shards.build import DatasetJob, ShardJob, build_dataset, prepare_directory
from data_shards.dataset_file import DATASET_FILE
from data_shards.schema import RawFrame
from data_shards.sources import drivelm
from data_shards.sources.drivelm_select import tagged_questions
from data_shards.sources.synthetic.cities import DEFAULT_CITY
from data_shards.views import resize_views

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
        "view_size": _listed(options.view_size),
        "form": options.form,
        "annotations_sha256": hashlib.sha256(options.annotations.read_bytes()).hexdigest(),
        "skipped_frames": skipped,
    }
    jobs = []
    for out_dir, scenes in splits(options, [key_frame.scene for key_frame in key_frames]):
        chosen = set(scenes)
        frames = [key_frame for key_frame in key_frames if key_frame.scene in chosen]
        shards = [
            ShardJob(
                number=number,
                num_frames=len(chunk),
                make_frames=partial(_make_drivelm, tuple(chunk), options.form, options.seed, options.view_size),
            )
            for number, chunk in enumerate(chunks(frames, options.samples_per_shard))
        ]
        jobs.append(dataset_job(options, out_dir, drivelm.SOURCE, drivelm.LICENCE, scenes, build, shards))
    if skipped:
        print(f"left out {skipped} frames without all six images", file=sys.stderr)
    build_all(jobs, options)


def _make_drivelm(
    key_frames: Sequence[drivelm.KeyFrame], form: drivelm.Form, seed: int, view_size: tuple[int, int] | None
) -> Iterator[RawFrame]:
    return resize_views((drivelm.make_frame(key_frame, form=form, seed=seed) for key_frame in key_frames), view_size)


def write_synthetic(options: argparse.Namespace) -> None:
    """Render the synthetic world; raises what `build` raises, and UsageError."""
    if options.view_size and options.family == "general":
        raise UsageError("--view-size: got it with --family general, which has no camera views; use --image-width")
    if options.city != DEFAULT_CITY and options.family == "general":
        raise UsageError("--city: got it with --family general, whose pictures show no city; leave it out")
    if options.form != "both" and options.family == "general":
        raise UsageError("--form: got it with --family general, whose questions have no tags; leave it out")
    build = {
        "view_size": _listed(options.view_size),
        "family": options.family,
        "frames_per_scene": options.frames_per_scene,
        "image_width": options.image_width,
        **({"city": options.city, "form": options.form} if options.family == "driving" else {}),
    }
    make = partial(_make_synthetic, options.family, options.seed, build, options.view_size)
    jobs = []
    for out_dir, scenes in splits(options, [f"{number:08d}" for number in range(options.scenes)]):
        groups = chunks([int(scene) for scene in scenes], max(1, options.samples_per_shard // options.frames_per_scene))
        shards = [
            ShardJob(
                number=number,
                num_frames=len(chunk) * options.frames_per_scene,
                make_frames=partial(make, scenes=tuple(chunk)),
            )
            for number, chunk in enumerate(groups)
        ]
        source = SYNTHETIC_SOURCES[options.family]
        jobs.append(dataset_job(options, out_dir, source, _SYNTHETIC_LICENCE, scenes, build, shards))
    build_all(jobs, options)


def _make_synthetic(
    family: str, seed: int, build: Mapping[str, Any], view_size: tuple[int, int] | None, *, scenes: Sequence[int]
) -> Iterator[RawFrame]:
    from data_shards.sources.synthetic import driving_frames, general_frames, position_frames

    driving = position_frames if build.get("form") == "positions" else driving_frames
    make = {"driving": driving, "general": general_frames}[family]
    sizes = {name: value for name, value in build.items() if name in ("frames_per_scene", "image_width", "city")}
    for scene in scenes:
        frames = make(seed=seed, scenes=range(scene, scene + 1), **sizes)
        if build.get("form") == "test":
            frames = (replace(frame, questions=tagged_questions(frame)) for frame in frames)
        yield from resize_views(frames, view_size)


def _listed(size: tuple[int, int] | None) -> list[int] | None:
    return None if size is None else list(size)


def splits(options: argparse.Namespace, scenes: Sequence[str]) -> list[tuple[Path, list[str]]]:
    """The directories to write and the scenes of each; raises UsageError, SelectionError."""
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


def dataset_job(
    options: argparse.Namespace,
    out_dir: Path,
    source: str,
    licence: str,
    scenes: Sequence[str],
    build: Mapping[str, Any],
    shards: Sequence[ShardJob],
) -> DatasetJob:
    """A job with the arguments that all sources have in its `build`."""
    common = {
        "seed": options.seed,
        "val_fraction": options.val_fraction,
        "samples_per_shard": options.samples_per_shard,
        "num_scenes": len(scenes),
        "scenes_sha256": hashlib.sha256(",".join(scenes).encode()).hexdigest(),
    }
    return DatasetJob(out_dir=out_dir, source=source, licence=licence, build={**build, **common}, shards=shards)


def build_all(jobs: Sequence[DatasetJob], options: argparse.Namespace, *, max_left_out: int = 0) -> None:
    """Write datasets one after the other, which may leave out `max_left_out` rows in all; raises what `build` does."""
    for job in jobs:
        prepare_directory(job)
    for job in jobs:
        info = build_dataset(replace(job, max_left_out=max_left_out), workers=options.workers)
        max_left_out -= info.left_out
        print(
            f"{job.out_dir}: {info.num_samples} samples, {info.num_questions} questions, "
            f"{len(info.shards)} shards, {info.num_bytes:,} bytes"
        )


def chunks(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    """Items in groups of `size`, the last one smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
