"""The shards of a dataset in, one long sequence of entries out; the tables of the shards used last are in memory."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import Any, overload

from data_shards.entries import SampleEntry
from data_shards.shard_table import ShardTable

TABLES_IN_MEMORY = 64
"""Tables of shards kept at a time; of 1,000 frames with six cameras each has 0.5 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPart:
    """One shard of a dataset as far as it is known without its table.

    Attributes:
        tar: the shard.
        num_samples, num_questions: counts.
        index_sha256: checksum of the index that was read first; another one later is refused.
        table: kept where there is no index on disk to read it from.
    """

    tar: Path
    num_samples: int
    num_questions: int
    index_sha256: str
    table: ShardTable | None = None


class ShardSamples(Sequence[SampleEntry]):
    """All entries of a dataset in shard order, read shard by shard when they are asked for."""

    def __init__(self, parts: Sequence[ShardPart], read: Callable[[ShardPart], ShardTable]) -> None:
        """Set up; `read` reads the table of a shard."""
        self.parts = tuple(parts)
        self._read = read
        self._starts = [0]
        for part in self.parts:
            self._starts.append(self._starts[-1] + part.num_samples)
        self._tables: OrderedDict[int, ShardTable] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def num_questions(self) -> int:
        """Of all frames; reads nothing."""
        return sum(part.num_questions for part in self.parts)

    @overload
    def __getitem__(self, i: int) -> SampleEntry: ...
    @overload
    def __getitem__(self, i: slice) -> list[SampleEntry]: ...
    def __getitem__(self, i: int | slice) -> SampleEntry | list[SampleEntry]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"got sample {i}, expected 0 to {len(self) - 1}")
        i %= len(self)
        shard = bisect_right(self._starts, i) - 1
        return self.table(shard)[i - self._starts[shard]]

    def __iter__(self) -> Iterator[SampleEntry]:
        for shard in range(len(self.parts)):
            yield from self.table(shard)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def table(self, shard: int) -> ShardTable:
        """The table of the shard at a place in `parts`.

        Raises:
            ShardError: its index changed or was damaged since it was first read.
        """
        pinned = self.parts[shard].table
        if pinned is not None:
            return pinned
        table = self._tables.pop(shard, None)
        if table is None:
            table = self._read(self.parts[shard])
        self._tables[shard] = table
        if len(self._tables) > TABLES_IN_MEMORY:
            self._tables.popitem(last=False)
        return table

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": OrderedDict()}
