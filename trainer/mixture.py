"""Recipe, text settings and ranks in; the datasets of the mixture, their sizes and weights, and what is left out of it
out."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from data_shards.entries import ShardError
from data_shards.index import DatasetIndex
from data_shards.lengths import CountedSizes, count_samples, count_tiles, shard_numbers
from data_shards.loader import FrameSource, TextSettings
from data_shards.mixture import MixtureEntry, PackLimits, oversized
from data_shards.quarantine import BadRecord
from data_shards.remote import CacheSettings, open_dataset
from trainer.dist import Ranks
from trainer.recipe import DataSection, DatasetSection, Recipe
from trainer.targets.record import cached_targets


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What can be shown.

    Attributes:
        sources: the datasets.
        entries: of each, as a plan wants them.
        limits: of a pack.
        questions_per_visit: 1 in stages on images only.
        bad: samples that cannot be used, or not with all questions, found when they were counted.
    """

    sources: Sequence[FrameSource]
    entries: Sequence[MixtureEntry]
    limits: PackLimits
    questions_per_visit: int
    bad: Sequence[BadRecord]

    def record(self) -> dict[str, Any]:
        """Where each dataset lies, and a sha256 over its shards and the lengths of all samples: what a plan follows."""
        return {
            f"data.datasets.{source.name}": {"from": str(source.index.root), "sha256": _sha256(source.index, entry)}
            for source, entry in zip(self.sources, self.entries, strict=True)
        }


def make_mixture(recipe: Recipe, text: TextSettings | None, ranks: Ranks | None = None) -> Mixture:
    """Read indexes and count lengths. With ranks, called on all: the main one comes first, and all share the counting.

    Raises:
        ShardError: as `open_dataset`.
        TargetsError, CodebookError: cached targets that are not the recipe's.
        MainRankError: on the other ranks, where it failed on the main one.
    """
    data = recipe.data
    open_all = partial(_sources, recipe)
    sources = open_all() if ranks is None else ranks.main_first(open_all)
    if text is not None and ranks is not None and ranks.world_size > 1:
        with contextlib.suppress(ShardError, OSError):  # the main rank meets the same, and says so
            _count(recipe, text, sources, (ranks.rank, ranks.world_size))
    count_all = partial(_count, recipe, text, sources)
    counted = count_all() if ranks is None else ranks.main_first(count_all)
    limits = PackLimits(max_tokens=data.max_tokens if text else 1, max_tiles=data.max_tiles)
    questions_per_visit = data.questions_per_visit if text else 1
    entries = [
        MixtureEntry(sizes=sizes.table, weight=source.weight, shards=shard_numbers(source.index))
        for source, sizes in zip(sources, counted, strict=True)
    ]
    bad = [
        BadRecord.of(error, source.name) for source, sizes in zip(sources, counted, strict=True) for error in sizes.bad
    ]
    return Mixture(
        sources=sources,
        entries=entries,
        limits=limits,
        questions_per_visit=questions_per_visit,
        bad=[*bad, *_oversized(sources, entries, limits)],
    )


def cache_settings(data: DataSection) -> CacheSettings:
    """Where a recipe keeps what lies at an address."""
    return CacheSettings(directory=data.cache_dir, max_bytes=round(data.cache_gib * (1 << 30)))


def check_same(mixture: Mixture, ranks: Ranks) -> None:
    """Refuse ranks that would follow different plans; called on all ranks.

    Raises:
        ShardError: on all ranks, where one counted other lengths than the main rank.
    """
    records = ranks.gather(mixture.record())
    other = [rank for rank, record in enumerate(records) if record != records[0]]
    if other:
        raise ShardError(
            f"data: ranks {', '.join(map(str, other))} read other samples or lengths than rank 0: the shards are not "
            "the same on every machine, or do not read reliably; check the copies with `python -m data_shards inspect "
            "DIR --verify`"
        )


def _sha256(index: DatasetIndex, entry: MixtureEntry) -> str:
    digest = hashlib.sha256()
    for part in index.samples.parts:
        digest.update(f"{part.tar.name} {part.index_sha256}\n".encode())
    for column in (entry.sizes.prefix, entry.sizes.tiles, entry.sizes.first, entry.sizes.tokens):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _sources(recipe: Recipe) -> list[FrameSource]:
    cache = cache_settings(recipe.data)
    return [_source(recipe, dataset, cache) for dataset in recipe.data.datasets]


def _source(recipe: Recipe, dataset: DatasetSection, cache: CacheSettings) -> FrameSource:
    index = open_dataset(dataset.path, cache)
    targets = cached_targets(recipe, dataset, index, cache)
    return FrameSource(name=dataset.name, index=index, weight=dataset.weight or 1.0, targets=targets)


def _count(
    recipe: Recipe, text: TextSettings | None, sources: Sequence[FrameSource], share: tuple[int, int] = (0, 1)
) -> list[CountedSizes]:
    if text is None:
        return [count_tiles(source.index, recipe.data.view) for source in sources]
    return [
        count_samples(
            source.index,
            tokenizer=text.tokenizer,
            template=text.template,
            layout=recipe.data.view,
            tokens_per_tile=text.tokens_per_tile,
            share=share,
        )
        for source in sources
    ]


def _oversized(sources: Sequence[FrameSource], entries: Sequence[MixtureEntry], limits: PackLimits) -> list[BadRecord]:
    """One record for each sample with questions, or tiles, that no pack can hold."""
    records = []
    for (dataset, sample), rows in groupby(oversized(entries, limits), key=lambda row: row[:2]):
        found = list(rows)
        source = sources[dataset]
        entry = source.index.samples[sample]
        questions = _runs([question for _, _, question, _ in found if question >= 0])
        most = max(tokens for _, _, _, tokens in found)
        tiles = int(entries[dataset].sizes.tiles[sample])
        what = f"questions {questions}: got" if questions else "got"
        records.append(
            BadRecord(
                dataset=source.name,
                shard=entry.shard,
                offset=entry.members["json"].offset,
                key=entry.key,
                reason=f"{what} up to {most} tokens with the prefix and {tiles} tiles, expected at most "
                f"{limits.max_tokens} and {limits.max_tiles}; raise data.max_tokens or data.max_tiles",
            )
        )
    return records


def _runs(numbers: Sequence[int]) -> str:
    """Rising numbers in words, such as `0 to 7, 9`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs)
