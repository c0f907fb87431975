"""A stage and the settings of a benchmark in; the steps it is fed with out, from memory or as training reads them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

from data_shards.collate import Batch
from trainer.bench.packs import FRAME_TILES, random_batches
from trainer.bench.settings import BenchSettings, pack_settings
from trainer.data import make_data
from trainer.dist import Ranks
from trainer.stages.base import Stage

_PACKS = 16
"""Different packs in memory, taken in turn."""


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What a benchmark runs.

    Attributes:
        steps: makes the steps, each a list of batches, without end.
        first_batches: makes the packs that a stage prepares itself with.
        note: where they come from.
    """

    steps: Callable[[], Iterator[list[Batch]]]
    first_batches: Callable[[], Iterable[Batch]]
    note: str


def make_feed(stage: Stage, settings: BenchSettings, ranks: Ranks) -> Feed:
    """Packs of random lengths made beforehand, or with `settings.data` the training loader over those shards."""
    if settings.data is None:
        made = random_batches(pack_settings(stage, settings), stage.cost(), _PACKS, seed=ranks.rank)
        held = [batch.pin_memory() for batch in made] if ranks.device().type == "cuda" else made
        return Feed(
            steps=lambda: _steps(held, settings.micro_batches),
            first_batches=lambda: held,
            note="random packs in memory: nothing is read or decoded" + _cut(settings.tiles),
        )
    data = make_data(stage.recipe, stage.text, ranks, stage.cost())
    workers = stage.recipe.data.workers
    return Feed(
        steps=lambda: iter(data.loader(ranks, 0)),
        first_batches=data.first_batches,
        note=f"{settings.data}: {data.num_samples} frames, read, decoded and tiled by {workers} workers of each rank",
    )


def _steps(held: Iterable[Batch], micro_batches: int) -> Iterator[list[Batch]]:
    packs = cycle(held)
    while True:
        yield list(islice(packs, micro_batches))


def _cut(max_tiles: int) -> str:
    """What to say where a pack holds fewer tiles than a frame has."""
    return "" if max_tiles >= FRAME_TILES else f"; frames of {FRAME_TILES} tiles are cut to the {max_tiles} of a pack"
