"""The entries of one shard as columns: a few hundred bytes a frame instead of thousands, and quick to load.

S samples have M members and I images together.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np

from data_shards.entries import MemberSpan, SampleEntry

_DIGEST_BYTES = 32
_MOST_BYTES = 1 << 62


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardTable(Sequence[SampleEntry]):
    """The frames of one shard in order; `table[i]` makes a `SampleEntry`.

    Attributes:
        shard: file name of the tar.
        keys: of the frames.
        layouts: the different lists of member suffixes that frames have.
        layout_ids: which of them, int64 [S].
        offsets, sizes: of each member's data, int64 [M].
        digests: sha256 of each member's data, uint8 [M, 32].
        num_questions, num_images: int64 [S].
        image_sizes: width and height, int64 [I, 2].
    """

    shard: str
    keys: tuple[str, ...]
    layouts: tuple[tuple[str, ...], ...]
    layout_ids: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    num_questions: np.ndarray
    num_images: np.ndarray
    image_sizes: np.ndarray

    @cached_property
    def first_member(self) -> np.ndarray:
        """Where each frame's members begin, int64 [S + 1]."""
        lengths = np.array([len(layout) for layout in self.layouts], dtype=np.int64)
        return np.concatenate([[0], np.cumsum(lengths[self.layout_ids])])

    @cached_property
    def first_image(self) -> np.ndarray:
        """Where each frame's image sizes begin, int64 [S + 1]."""
        return np.concatenate([[0], np.cumsum(self.num_images)])

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, i: int) -> SampleEntry: ...
    @overload
    def __getitem__(self, i: slice) -> list[SampleEntry]: ...
    def __getitem__(self, i: int | slice) -> SampleEntry | list[SampleEntry]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"{self.shard}: got sample {i}, expected 0 to {len(self) - 1}")
        i %= len(self)
        begin, end = self.first_member[i : i + 2].tolist()
        hexadecimal = self.digests[begin:end].tobytes().hex()
        spans = zip(self.offsets[begin:end].tolist(), self.sizes[begin:end].tolist(), strict=True)
        members = {
            suffix: MemberSpan(offset=offset, size=size, sha256=hexadecimal[64 * k : 64 * k + 64])
            for k, (suffix, (offset, size)) in enumerate(zip(self.layouts[self.layout_ids[i]], spans, strict=True))
        }
        first, last = self.first_image[i : i + 2].tolist()
        return SampleEntry(
            key=self.keys[i],
            shard=self.shard,
            members=members,
            num_questions=int(self.num_questions[i]),
            num_images=int(self.num_images[i]),
            image_sizes=tuple((width, height) for width, height in self.image_sizes[first:last].tolist()),
        )

    def __iter__(self) -> Iterator[SampleEntry]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def table_of(shard: str, entries: Sequence[SampleEntry]) -> ShardTable:
    """The columns of a shard's entries."""
    layouts = {tuple(entry.members): 0 for entry in entries}
    layouts = {layout: number for number, layout in enumerate(layouts)}
    spans = [span for entry in entries for span in entry.members.values()]
    return ShardTable(
        shard=shard,
        keys=tuple(entry.key for entry in entries),
        layouts=tuple(layouts),
        layout_ids=np.array([layouts[tuple(entry.members)] for entry in entries], dtype=np.int64),
        offsets=np.array([span.offset for span in spans], dtype=np.int64),
        sizes=np.array([span.size for span in spans], dtype=np.int64),
        digests=np.frombuffer(b"".join(bytes.fromhex(span.sha256) for span in spans), np.uint8).reshape(-1, 32),
        num_questions=np.array([entry.num_questions for entry in entries], dtype=np.int64),
        num_images=np.array([len(entry.image_sizes) for entry in entries], dtype=np.int64),
        image_sizes=np.array([size for entry in entries for size in entry.image_sizes], dtype=np.int64).reshape(-1, 2),
    )


def table_to_json(table: ShardTable) -> dict[str, Any]:
    """Keys and suffixes as text, numbers and digests as base64 (little-endian int64; 32 bytes a digest)."""
    columns = {
        "layout": table.layout_ids,
        "offsets": table.offsets,
        "sizes": table.sizes,
        "questions": table.num_questions,
        "images": table.num_images,
        "image_sizes": table.image_sizes,
    }
    return {
        "keys": list(table.keys),
        "layouts": [list(layout) for layout in table.layouts],
        **{name: b64encode(values.astype("<i8").tobytes()).decode() for name, values in columns.items()},
        "digests": b64encode(table.digests.tobytes()).decode(),
    }


def table_from_json(shard: str, record: Mapping[str, Any]) -> ShardTable:
    """The inverse of `table_to_json`.

    Raises:
        ValueError, KeyError, TypeError: columns that are missing or of lengths that do not fit each other.
    """
    numbers = {
        name: np.frombuffer(b64decode(record[name], validate=True), "<i8")
        for name in ("layout", "offsets", "sizes", "questions", "images", "image_sizes")
    }
    table = ShardTable(
        shard=shard,
        keys=tuple(map(str, record["keys"])),
        layouts=tuple(tuple(map(str, layout)) for layout in record["layouts"]),
        layout_ids=_within(numbers["layout"], len(record["layouts"])),
        offsets=_within(numbers["offsets"], _MOST_BYTES),
        sizes=_within(numbers["sizes"], _MOST_BYTES),
        digests=np.frombuffer(b64decode(record["digests"], validate=True), np.uint8).reshape(-1, _DIGEST_BYTES),
        num_questions=_within(numbers["questions"], _MOST_BYTES),
        num_images=_within(numbers["images"], _MOST_BYTES),
        image_sizes=_within(numbers["image_sizes"], _MOST_BYTES).reshape(-1, 2),
    )
    num_members, num_images = int(table.first_member[-1]), int(table.first_image[-1])
    columns = {
        "layout": (table.layout_ids, len(table)),
        "questions": (table.num_questions, len(table)),
        "images": (table.num_images, len(table)),
        "offsets": (table.offsets, num_members),
        "sizes": (table.sizes, num_members),
        "digests": (table.digests, num_members),
        "image_sizes": (table.image_sizes, num_images),
    }
    for name, (column, expected) in columns.items():
        if len(column) != expected:
            raise ValueError(f"field {name!r}: got {len(column)} rows, expected {expected}")
    return table


def _within(column: np.ndarray, end: int) -> np.ndarray:
    if len(column) and (column.min() < 0 or column.max() >= end):
        raise ValueError(f"got a number of {column.min()} to {column.max()}, expected 0 to {end - 1}")
    return column
