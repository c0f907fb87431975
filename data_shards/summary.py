"""A dataset index in, a printed summary out: samples, questions by type and tag, image sizes, shards, bytes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_shards.coords import unparsed_tags
from data_shards.dataset_file import read_dataset_file
from data_shards.index import DatasetIndex, load_index
from data_shards.read import BadSample, read_frame
from data_shards.schema import QUESTION_KINDS, TAG_NAMES, RawFrame
from data_shards.view_layout import ViewLayout, tiles_per_image

_PERCENTILES = (0, 50, 99, 100)


def summarise(directory: Path) -> tuple[str, list[str]]:
    """Text lines on a directory of shards, and what is wrong with its records; reads every record and no image.

    Raises:
        ShardError: no usable shards.
    """
    index = load_index(directory)
    info = read_dataset_file(directory)
    counts = _Counts()
    object_tags = unparsed_tags(_texts(index, counts))  # one pass over the records, none of which stays in memory
    total = counts.kinds.total()
    sizes = Counter(f"{width}x{height}" for entry in index.samples for width, height in entry.image_sizes)
    per_sample = Counter(entry.num_images for entry in index.samples)
    rows = [
        ("directory", str(directory)),
        ("source", ", ".join(sorted(counts.sources))),
        ("licence", info.licence if info else "unknown"),
        ("shards", f"{len(index.samples.parts)}, {_bytes(index):,} bytes"),
        ("samples", f"{len(index):,} in {len(counts.scenes):,} scenes"),
        ("questions", f"{total:,}, {total / max(1, len(index)):.1f} a sample"),
        ("  by type", _listed((kind, counts.kinds[kind]) for kind in QUESTION_KINDS if counts.kinds[kind])),
        ("  by tag", _listed((f"{tag} {TAG_NAMES[tag]}", counts.tags[tag]) for tag in sorted(counts.tags))),
        ("  in test form", f"{counts.tagged:,}"),
        ("  by turns", _listed((f"{n}", counts.turns[n]) for n in sorted(counts.turns))),
        ("  answer", f"{counts.characters / max(1, total):.0f} characters, longest {counts.longest}"),
        ("  object tags", object_tags or "all parse"),
        ("images", f"{sizes.total():,}"),
        ("  a sample", _listed((f"{n}", per_sample[n]) for n in sorted(per_sample))),
        ("  by size", _listed(sizes.most_common())),
        ("key objects", f"{counts.objects:,}"),
        ("left out", f"{info.left_out:,} rows" if info else "unknown"),
    ]
    return "\n".join(map(row_text, rows)), counts.unusable


def row_text(row: tuple[str, str]) -> str:
    """A line of a summary: its name and its value."""
    return f"{row[0]:<16}{row[1]}"


@dataclass(kw_only=True)
class _Counts:
    """What is counted over frames: questions by type, tag and turns, characters of answers; and records of no use."""

    sources: set[str] = field(default_factory=set)
    scenes: set[str] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)
    tags: Counter[int] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    tagged: int = 0
    characters: int = 0
    longest: int = 0
    objects: int = 0
    unusable: list[str] = field(default_factory=list)

    def add(self, frame: RawFrame) -> None:
        """Count a frame."""
        self.sources.add(frame.source)
        self.scenes.add(frame.scene)
        self.objects += len(frame.objects)
        for question in frame.questions:
            self.kinds[question.kind] += 1
            self.tags.update(question.tags)
            self.turns[len(question.turns)] += 1
            self.tagged += bool(question.tags)
            self.characters += len(question.answer)
            self.longest = max(self.longest, len(question.answer))


def _texts(index: DatasetIndex, counts: _Counts) -> Iterator[str]:
    """Every text of all questions, frame by frame; each frame is counted as it comes."""
    for position in range(len(index)):
        try:
            frame = read_frame(index, position, with_images=False)
        except BadSample as error:
            counts.unusable.append(str(error))
            continue
        counts.add(frame)
        for question in frame.questions:
            for turn in question.turns:
                yield from turn


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


def _bytes(index: DatasetIndex) -> int:
    return sum(part.tar.stat().st_size for part in index.samples.parts)
