"""Parsed arguments of `conversations` in, shard directories and `left_out.jsonl` out."""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_shards.atomic import write_atomically
from data_shards.build import DatasetJob, ShardJob
from data_shards.commands import UsageError, build_all, chunks, dataset_job, splits
from data_shards.entries import LeftOut
from data_shards.schema import RawFrame
from data_shards.sources.conversation_rows import RowRules
from data_shards.sources.conversation_tars import TarFields, make_tar_frames, scan_tars
from data_shards.sources.conversations import Conversations, make_frames, scan_rows
from data_shards.write import rows_left_out

LEFT_OUT_FILE = "left_out.jsonl"
_SHOWN = 10


def write_conversations(options: argparse.Namespace) -> None:
    """Convert conversation rows or third-party tars; raises what the sources and `build` raise, and UsageError."""
    _write(options, _from_rows(options) if options.tars is None else _from_tars(options))


@dataclass(frozen=True, kw_only=True)
class _Scanned:
    """What a scan of rows or tars found, and how frames are made of it.

    Attributes:
        source: name of the dataset.
        items: of each frame, in order, what `make` takes.
        scenes: of each frame.
        make: makes some of the frames.
        bad: rows that cannot be used.
        num_rows: good ones and bad ones.
        build: the arguments that decide which frames there are.
    """

    source: str
    items: Sequence[Any]
    scenes: Sequence[str]
    make: Callable[[Sequence[Any]], Iterator[RawFrame | LeftOut]]
    bad: Sequence[LeftOut]
    num_rows: int
    build: dict[str, Any]


def _from_rows(options: argparse.Namespace) -> _Scanned:
    if options.image_field or options.caption_key:
        raise UsageError("--image-field, --caption-key: got them with --annotations, expected them with --tars only")
    job = Conversations(
        annotations=options.annotations,
        image_root=options.images,
        rules=_rules(options),
        separate_turns=options.separate_turns,
        max_side=options.max_side,
        source=options.source or options.annotations.stem,
    )
    frames, bad = scan_rows(job)
    with options.annotations.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Scanned(
        source=job.source,
        items=frames,
        scenes=[scene for scene, _ in frames],
        make=partial(make_frames, job=job),
        bad=bad,
        num_rows=sum(len(rows) for _, rows in frames) + len(bad),
        build={"annotations_sha256": digest, **_settings(options)},
    )


def _from_tars(options: argparse.Namespace) -> _Scanned:
    if options.images is not None:
        raise UsageError("--images: got it with --tars, whose images lie in the tars; leave it out")
    fields = TarFields(
        images=tuple(name.lower() for name in options.image_field or ()),
        text=options.text_field.lower(),
        caption_key=options.caption_key,
        question=options.question,
        rules=_rules(options),
        separate_turns=options.separate_turns,
        max_side=options.max_side,
        source=options.source or options.tars.name,
    )
    samples, bad, others = scan_tars(options.tars, fields)
    for suffix, count in sorted(others.items()):
        print(f"left out {count} members .{suffix}, which were not asked for", file=sys.stderr)
    keys = hashlib.sha256("\n".join(f"{s.scene} {s.text} {s.images}" for s in samples).encode()).hexdigest()
    tar_fields = {"image_field": list(fields.images), "text_field": fields.text, "caption_key": fields.caption_key}
    return _Scanned(
        source=fields.source,
        items=samples,
        scenes=[sample.scene for sample in samples],
        make=partial(make_tar_frames, fields=fields),
        bad=bad,
        num_rows=len(samples) + len(bad),
        build={"samples_sha256": keys, **tar_fields, "question": fields.question, **_settings(options)},
    )


def _rules(options: argparse.Namespace) -> RowRules:
    return RowRules(move_placeholders=options.move_placeholders, drop_system=options.drop_system)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    settings = {"separate_turns": options.separate_turns, "max_side": options.max_side}
    return {**asdict(_rules(options)), **settings}


def _write(options: argparse.Namespace, found: _Scanned) -> None:
    if not 0 <= options.max_bad_fraction < 1:
        raise UsageError(f"--max-bad-fraction: got {options.max_bad_fraction}, expected 0 or more and below 1")
    allowed = int(options.max_bad_fraction * found.num_rows)
    if len(found.bad) > allowed:
        listed = "".join(f"\n  {item}" for item in found.bad[:_SHOWN])
        raise UsageError(
            f"--max-bad-fraction: got {len(found.bad)} of {found.num_rows} rows that cannot be used, expected at most "
            f"{allowed}; mend them, or allow more; the first are:{listed}"
        )
    jobs = []
    for out_dir, chosen in splits(options, found.scenes):
        wanted = set(chosen)
        own = [item for item, scene in zip(found.items, found.scenes, strict=True) if scene in wanted]
        shards = [
            ShardJob(number=number, num_frames=len(chunk), make_frames=partial(found.make, chunk))
            for number, chunk in enumerate(chunks(own, options.samples_per_shard))
        ]
        jobs.append(dataset_job(options, out_dir, found.source, options.licence, chosen, found.build, shards))
    build_all(jobs, options, max_left_out=allowed - len(found.bad))
    _report(options.out, jobs, found.bad)


def _report(out: Path, jobs: Sequence[DatasetJob], bad: Sequence[LeftOut]) -> None:
    late = [item for job in jobs for item in rows_left_out(job.out_dir)]
    left_out = sorted([*bad, *late], key=lambda item: item.lines)
    if left_out:
        lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in left_out)
        write_atomically(out / LEFT_OUT_FILE, lines.encode(errors="backslashreplace"))  # names need not be UTF-8
        count = sum(len(item.lines) for item in left_out)
        print(f"left out {count} rows, listed in {out / LEFT_OUT_FILE}; first {left_out[0]}", file=sys.stderr)
