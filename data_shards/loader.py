"""Datasets and a PackStream come in; the batches of one rank come out, step by step, made in worker processes.

The order is the stream's: neither the number of workers nor that of ranks changes it, nor does a frame left out."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.utils.data import DataLoader

from data_shards.collate import Batch
from data_shards.frame_dataset import FrameDataset, FrameSource, SlottedBatch, TextSettings
from data_shards.loader_worker import start_worker
from data_shards.plan import PackStream
from data_shards.rank_order import RankOrder
from data_shards.slots import TileSlots
from data_shards.storage import Unreachable
from data_shards.view_layout import ViewLayout

__all__ = ["FrameSource", "LoaderError", "PackLoader", "TextSettings"]

_POLL_S = 1.0
"""Seconds after which a loader that waits for a batch looks whether its workers live."""

_Item = Batch | SlottedBatch | Unreachable


class LoaderError(RuntimeError):
    """A worker process that died or hangs, or data that cannot be reached; the message says which and what to try."""


class PackLoader:
    """Endless steps of one rank: each a list of `accumulation` batches.

    `position` is all that has to be saved: the place in the stream behind the packs consumed by all ranks together,
    once every step handed out is done. A loader of any world size started there continues the same sequence.
    """

    def __init__(
        self,
        sources: Sequence[FrameSource],
        stream: PackStream,
        *,
        layout: ViewLayout,
        text: TextSettings | None = None,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        start_position: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        timeout_s: float = 600.0,
        pin_memory: bool = False,
        max_tiles: int | None = None,
    ) -> None:
        """Set up a loader; workers start with the first step.

        Args:
            text: None for jobs on images only, with a stream over `lengths.tile_sizes`.
            start_position: where to begin; 0, or what `position` was.
            workers: processes; 0 makes the batches in the calling process.
            prefetch: batches each worker makes ahead, and no more.
            timeout_s: seconds without a batch after which the workers count as stuck.
            pin_memory: hand over in page-locked memory, for copies to a GPU.
            max_tiles: of a pack; where it is given, tiles come through shared memory that is used again.
        """
        assert 0 <= rank < world_size, (rank, world_size)
        assert min(accumulation, start_position + 1) >= 1, (accumulation, start_position)
        self.position = stream.advance(start_position, 0)
        self._sources, self._layout, self._text = sources, layout, text
        self._stream, self._rank, self._world_size, self._accumulation = stream, rank, world_size, accumulation
        self._workers, self._prefetch = workers, prefetch
        self._timeout_s, self._pin_memory, self._max_tiles = timeout_s, pin_memory, max_tiles

    def __iter__(self) -> Iterator[list[Batch]]:
        """Steps from `position` on; `position` moves on as each is handed out.

        Frames that do not read, decode, tile or tokenise are left out and listed in their batch's `meta.bad`.

        Raises:
            LoaderError: a worker died or is stuck, or a remote store does not answer.
        """
        slots = self._slots()
        with _no_child_handler():
            batches = iter(self._loader(slots))
        while True:
            step = []
            for _ in range(self._accumulation):
                step.append(self._next(batches, slots, self._stream.advance(self.position, self._rank)))
                self.position = self._stream.advance(self.position, self._world_size)
            yield step

    def _slots(self) -> TileSlots | None:
        if not self._workers or self._max_tiles is None:
            return None
        tile_bytes = 3 * self._layout.tile_size**2
        per_worker = self._prefetch + self._accumulation + 1
        return TileSlots(workers=self._workers, per_worker=per_worker, slot_bytes=self._max_tiles * tile_bytes)

    def _loader(self, slots: TileSlots | None) -> DataLoader:
        order = RankOrder(
            stream=self._stream,
            sources=self._sources,
            start=self.position,
            rank=self._rank,
            world_size=self._world_size,
        )
        pooled = self._workers > 0
        return DataLoader(
            FrameDataset(self._sources, self._layout, self._text, slots),
            batch_size=None,
            sampler=order,
            num_workers=self._workers,
            collate_fn=_unchanged,
            worker_init_fn=start_worker,
            prefetch_factor=self._prefetch if pooled else None,
            timeout=min(_POLL_S, self._timeout_s) if pooled else 0,
            multiprocessing_context="fork" if pooled else None,
        )

    def _next(self, batches: Iterator[_Item], slots: TileSlots | None, position: int) -> Batch:
        try:
            item = self._wait(batches)
        except (RuntimeError, OSError, EOFError) as error:
            if not self._workers or not _is_of_transport(error):
                raise
            raise LoaderError(
                f"rank {self._rank}: {error}: one of its {self._workers} data workers died or is stuck while pack "
                f"{position} was awaited (frames {self._frames(position)}). A killed worker mostly means that memory "
                "ran out: use fewer workers or less prefetch, or a larger /dev/shm; with 0 workers an error of its own "
                "would show here"
            ) from error
        if isinstance(item, Unreachable):
            raise LoaderError(
                f"rank {self._rank}: pack {position}: {item}; start again when the store answers: the run goes on from "
                "its last checkpoint"
            )
        if isinstance(item, SlottedBatch):
            assert slots is not None
            item = item.whole(slots)
        return item.pin_memory() if self._pin_memory else item

    def _wait(self, batches: Iterator[_Item]) -> _Item:
        """The next batch. torch looks whether its workers live only when a wait has timed out: waits are short here."""
        began = time.monotonic()
        while True:
            try:
                return next(batches)
            except RuntimeError as error:
                waited = time.monotonic() - began
                if not str(error).startswith("DataLoader timed out"):
                    raise
                if waited >= self._timeout_s:
                    raise RuntimeError(f"DataLoader gave no batch for {waited:.1f} seconds") from error

    def _frames(self, position: int) -> str:
        visits = self._stream.pack(position).visits
        return ", ".join(self._sources[visit.dataset].index.samples[visit.sample].key for visit in visits)


def _is_of_transport(error: Exception) -> bool:
    """Whether an error is of the way between a worker and its parent, and not one that a worker raised.

    A dead worker no longer answers for the memory of its last batches: then a socket does not connect.
    """
    if str(error).startswith("Caught "):
        return False
    return isinstance(error, OSError | EOFError) or "DataLoader" in str(error)


def _unchanged(item: object) -> object:
    return item


@contextmanager
def _no_child_handler() -> Iterator[None]:
    """Keep torch from raising a worker's death in the middle of whatever the main thread does then.

    The loader looks after its workers each time it waits for a batch, and names the pack.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, former)
