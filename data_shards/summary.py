"""A dataset index in, a printed summary out: samples, questions by type and tag, image sizes, shards, bytes."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_shards.dataset_file import read_dataset_file
from data_shards.index import DatasetIndex, load_index
from data_shards.read import read_frame
from data_shards.schema import QUESTION_KINDS

_TAG_NAMES = {0: "0 accuracy", 1: "1 judge", 2: "2 language", 3: "3 match"}


def summarise(directory: Path) -> str:
    """Text lines on a directory of shards; reads every frame's questions and no image.

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
        ("images", f"{sum(sizes.values()):,}"),
        ("  by size", _listed(sizes.most_common())),
        ("key objects", f"{sum(len(frame.objects) for frame in frames):,}"),
    ]
    return "\n".join(f"{name:<16}{value}" for name, value in rows)


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts) or "none"


def _num_shards(index: DatasetIndex) -> int:
    return len({entry.shard for entry in index.samples})


def _bytes(directory: Path, index: DatasetIndex) -> int:
    return sum((directory / shard).stat().st_size for shard in {entry.shard for entry in index.samples})
