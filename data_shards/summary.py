"""A dataset index in, a printed summary out: samples, questions by type and tag, image sizes, shards, bytes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data_shards.coords import unparsed_tags
from data_shards.dataset_file import read_dataset_file
from data_shards.index import DatasetIndex, load_index
from data_shards.read import read_frame
from data_shards.schema import QUESTION_KINDS
from data_shards.tiling import ViewLayout, tiles_per_image

_PERCENTILES = (0, 50, 99, 100)
_TAG_NAMES = {0: "0 accuracy", 1: "1 judge", 2: "2 language", 3: "3 match"}


def summarise(directory: Path, more: Iterable[tuple[str, str]] = ()) -> str:
    """Text lines on a directory of shards; reads every frame's questions and no image.

    Args:
        directory: of shards.
        more: further names and values to list.

    Raises:
        ShardError: no usable shards.
        BadSample: a damaged record.
    """
    index = load_index(directory)
    info = read_dataset_file(directory)
    frames = [read_frame(index, i, with_images=False) for i in range(len(index))]
    kinds = Counter(q.kind for frame in frames for q in frame.questions)
    tags = Counter(tag for frame in frames for q in frame.questions for tag in q.tags)
    tagged = sum(1 for frame in frames for q in frame.questions if q.tags)
    sizes = Counter(f"{width}x{height}" for entry in index.samples for width, height in entry.image_sizes)
    total = sum(kinds.values())
    known_kinds = {kind: kinds[kind] for kind in QUESTION_KINDS if kinds[kind]}
    answers = [q.answer for frame in frames for q in frame.questions]
    texts = (
        text
        for frame in frames
        for q in frame.questions
        for turn in (*q.history, (q.question, q.answer))
        for text in turn
    )
    turns = Counter(len(q.history) + 1 for frame in frames for q in frame.questions)
    per_sample = Counter(entry.num_images for entry in index.samples)
    rows = [
        ("directory", str(directory)),
        ("source", ", ".join(sorted({frame.source for frame in frames}))),
        ("licence", info.licence if info else "unknown"),
        ("shards", f"{_num_shards(index)}, {_bytes(directory, index):,} bytes"),
        ("samples", f"{len(frames):,} in {len({frame.scene for frame in frames}):,} scenes"),
        ("questions", f"{total:,}, {total / max(1, len(frames)):.1f} a sample"),
        ("  by type", _listed(known_kinds.items())),
        ("  by tag", _listed((_TAG_NAMES.get(tag, str(tag)), tags[tag]) for tag in sorted(tags))),
        ("  in test form", f"{tagged:,}"),
        ("  by turns", _listed((f"{n}", turns[n]) for n in sorted(turns))),
        (
            "  answer",
            f"{sum(map(len, answers)) / max(1, total):.0f} characters, longest {max(map(len, answers), default=0)}",
        ),
        ("  object tags", unparsed_tags(texts) or "all parse"),
        ("images", f"{sum(sizes.values()):,}"),
        ("  a sample", _listed((f"{n}", per_sample[n]) for n in sorted(per_sample))),
        ("  by size", _listed(sizes.most_common())),
        ("key objects", f"{sum(len(frame.objects) for frame in frames):,}"),
        ("left out", f"{info.left_out:,} rows" if info else "unknown"),
        *more,
    ]
    return "\n".join(f"{name:<16}{value}" for name, value in rows)


def tile_row(index: DatasetIndex, layout: ViewLayout) -> tuple[str, str]:
    """Name and value of the tiles that samples take; images whose header does not parse are counted apart.

    Raises:
        LayoutError: an image for which the layout has no tiling.
    """
    sound = [entry for entry in index.samples if (0, 0) not in entry.image_sizes]
    tiles = [sum(tiles_per_image(entry.image_sizes, layout)) for entry in sound]
    unknown = f"; {len(index) - len(sound)} samples have an image without a size" if len(sound) < len(index) else ""
    return "tiles", f"{spread(tiles)} a sample in mode {layout.mode}{unknown}"


def spread(counts: Sequence[int]) -> str:
    """Least, most, median and 99th percentile."""
    if not counts:
        return "none"
    least, median, high, most = np.percentile(counts, _PERCENTILES, method="higher")
    return f"{least:.0f} to {most:.0f}, median {median:.0f}, 99 % up to {high:.0f}"


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts) or "none"


def _num_shards(index: DatasetIndex) -> int:
    return len({entry.shard for entry in index.samples})


def _bytes(directory: Path, index: DatasetIndex) -> int:
    return sum((directory / shard).stat().st_size for shard in {entry.shard for entry in index.samples})
