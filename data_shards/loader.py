"""Datasets and a PackStream come in; the batches of one rank come out, step by step, made in worker processes.

The order is the stream's: neither the number of workers nor that of ranks changes it."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import DataLoader

from data_shards.collate import Batch
from data_shards.frame_dataset import FrameDataset, FrameSource, TextSettings
from data_shards.lengths import sample_sizes, tile_sizes
from data_shards.plan import MixtureEntry, PackLimits, PackPlan, PackStream
from data_shards.read import BadSample
from data_shards.tiling import ViewLayout

__all__ = ["FrameSource", "LoaderError", "PackLoader", "TextSettings", "pack_stream", "tile_stream"]


_GRACE_S = 25
"""Seconds a worker outlives a SIGTERM; launchers kill after 30."""


class LoaderError(RuntimeError):
    """A worker process that died or hangs; the message says which and what to try."""


def pack_stream(
    sources: Sequence[FrameSource],
    *,
    text: TextSettings,
    layout: ViewLayout,
    limits: PackLimits,
    questions_per_visit: int,
    seed: int,
) -> PackStream:
    """The endless sequence of packs of a mixture; token lengths are counted where they are not known yet.

    Raises:
        BadSample, ChatError: as `sample_sizes`.
        PlanError: as `plan_epoch`.
    """
    mixture = [
        MixtureEntry(
            sizes=sample_sizes(
                source.index,
                tokenizer=text.tokenizer,
                template=text.template,
                layout=layout,
                tokens_per_tile=text.tokens_per_tile,
            ),
            weight=source.weight,
        )
        for source in sources
    ]
    return PackStream(mixture, limits, questions_per_visit, seed)


def tile_stream(sources: Sequence[FrameSource], *, layout: ViewLayout, max_tiles: int, seed: int) -> PackStream:
    """The endless sequence of packs of images without questions, at most `max_tiles` tiles each, for distillation.

    Raises:
        BadSample: as `tile_sizes`.
        PlanError: as `plan_epoch`.
    """
    mixture = [MixtureEntry(sizes=tile_sizes(source.index, layout), weight=source.weight) for source in sources]
    return PackStream(mixture, PackLimits(max_tokens=1, max_tiles=max_tiles), 1, seed)


@dataclass(frozen=True, kw_only=True)
class _Order:
    """The packs of one rank, endless, from a position on."""

    stream: PackStream
    start: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[PackPlan]:
        position = self.start + self.rank
        while True:
            yield self.stream.pack(position)
            position += self.world


class PackLoader:
    """Endless steps of one rank: each a list of `accumulation` batches.

    `position` is all that has to be saved: the number of packs consumed by all ranks together, once every step handed
    out is done. A loader of any world size started there continues the same sequence.
    """

    def __init__(
        self,
        sources: Sequence[FrameSource],
        stream: PackStream,
        *,
        layout: ViewLayout,
        text: TextSettings | None = None,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        start_position: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        timeout_s: float = 600.0,
        pin_memory: bool = False,
    ) -> None:
        """Set up a loader; workers start with the first step.

        Args:
            text: None for jobs on images only, with a stream from `tile_stream`.
            start_position: packs consumed before, over all ranks.
            workers: processes; 0 makes the batches in the calling process.
            prefetch: batches each worker makes ahead.
            timeout_s: seconds without a batch after which the workers count as stuck.
            pin_memory: hand over in page-locked memory, for copies to a GPU.
        """
        assert 0 <= rank < world, (rank, world)
        assert min(accumulation, start_position + 1) >= 1, (accumulation, start_position)
        self.position = start_position
        self._stream, self._rank, self._world, self._accumulation = stream, rank, world, accumulation
        self._dataset = FrameDataset(sources, layout, text)
        self._workers, self._prefetch = workers, prefetch
        self._timeout_s, self._pin_memory = timeout_s, pin_memory

    def __iter__(self) -> Iterator[list[Batch]]:
        """Steps from `position` on; `position` moves on as each is handed out.

        Raises:
            BadSample: a frame that does not read, decode, tile or tokenise.
            LoaderError: a worker died or is stuck.
        """
        batches = iter(self._loader())
        while True:
            step = [self._next(batches) for _ in range(self._accumulation)]
            self.position += self._accumulation * self._world
            yield step

    def _loader(self) -> DataLoader:
        order = _Order(stream=self._stream, start=self.position, rank=self._rank, world=self._world)
        pooled = self._workers > 0
        return DataLoader(
            self._dataset,
            batch_size=None,
            sampler=order,
            num_workers=self._workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            prefetch_factor=self._prefetch if pooled else None,
            timeout=self._timeout_s if pooled else 0,
            pin_memory=self._pin_memory,
        )

    def _next(self, batches: Iterator[Batch | BadSample]) -> Batch:
        try:
            item = next(batches)
        except RuntimeError as error:
            if not self._workers or "DataLoader" not in str(error):
                raise
            raise LoaderError(
                f"rank {self._rank}: {error}: one of its {self._workers} data workers died or is stuck near pack "
                f"{self.position + self._rank}. A killed worker mostly means that memory ran out: use fewer workers or "
                "less prefetch, or a larger /dev/shm; with 0 workers an error of its own would show here"
            ) from error
        if isinstance(item, BadSample):
            raise item
        return item


def _unchanged(item: object) -> object:
    return item


def _start_worker(_: int) -> None:
    # Who stops a job signals every process of it. The step at hand still needs this one's batch: it ignores Ctrl-C, and
    # leaves only some time after a SIGTERM; when its rank ends it ends in any case.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_S))
    # A forked copy of the tokenizer's thread pool has no threads; without this it warns, or waits for them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
