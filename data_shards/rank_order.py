"""A PackStream, a position and a rank in, that rank's endless order of packs out; remote frames are fetched ahead."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_shards.cache import CachedFiles
from data_shards.frame_dataset import FrameSource
from data_shards.plan import PackPlan, PackStream
from data_shards.read import frame_span
from data_shards.read_ahead import Span, with_windows
from data_shards.remote import storage_of


@dataclass(frozen=True, kw_only=True)
class RankOrder:
    """The packs of one rank, endless, from a position on."""

    stream: PackStream
    sources: Sequence[FrameSource]
    start: int
    rank: int
    world_size: int

    def __iter__(self) -> Iterator[PackPlan]:
        caches = [cache for source in self.sources if isinstance(cache := storage_of(source.index), CachedFiles)]
        if not caches:
            return self._plans()
        # All ranks of a machine may share the cache; a good part of it stays for what is read again.
        budget = min(cache.max_bytes for cache in caches) // (4 * self.world_size)
        return with_windows(self._plans(), self._span, budget)

    def _plans(self) -> Iterator[PackPlan]:
        position = self.stream.advance(self.start, self.rank)
        while True:
            yield self.stream.pack(position)
            position = self.stream.advance(position, self.world_size)

    def _span(self, dataset: int, sample: int) -> Span | None:
        index = self.sources[dataset].index
        entry = index.samples[sample]
        if not isinstance(storage_of(index), CachedFiles) or "json" not in entry.members:
            return None
        offset, size = frame_span(entry)
        return Span(shard=entry.shard, offset=offset, size=size)
