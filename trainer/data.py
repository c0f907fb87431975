"""Recipe and stage in; the mixture's plan, its loader and a summary of it out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from data_shards.collate import Batch
from data_shards.entries import ShardError
from data_shards.index import DatasetIndex
from data_shards.lengths import sample_sizes, shard_numbers, tile_sizes
from data_shards.loader import FrameSource, PackLoader, TextSettings
from data_shards.plan import CostModel, MixtureEntry, PackLimits, PackStream, SizeTable, oversized
from data_shards.remote import CacheSettings, open_dataset
from trainer.dist import Ranks
from trainer.recipe import DatasetSection, Recipe
from trainer.targets.record import cached_targets


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a stage is trained on.

    Attributes:
        sources: the datasets.
        stream: the endless order of packs.
        text: None for stages on images only.
        left_out: questions (or images) that no pack can hold, as `data_shards.plan.oversized` gives them.
    """

    recipe: Recipe
    sources: Sequence[FrameSource]
    stream: PackStream
    text: TextSettings | None
    left_out: Sequence[tuple[int, int, int, int]]

    @property
    def num_samples(self) -> int:
        """Frames of all datasets together."""
        return sum(len(source.index) for source in self.sources)

    def loader(self, ranks: Ranks, start_position: int) -> PackLoader:
        """This rank's steps from a position in the plan on."""
        data = self.recipe.data
        return PackLoader(
            self.sources,
            self.stream,
            layout=data.view,
            text=self.text,
            rank=ranks.rank,
            world=ranks.world_size,
            accumulation=self.recipe.batch.micro_batches,
            start_position=start_position,
            workers=data.workers,
            prefetch=data.prefetch,
            pin_memory=ranks.device().type == "cuda",
            max_tiles=data.max_tiles,
        )

    def first_batches(self) -> Iterator[Batch]:
        """Packs from the beginning of the plan, one by one, read in this process; none without a usable frame.

        Raises:
            ShardError: a whole epoch has none.
        """
        loader = PackLoader(self.sources, self.stream, layout=self.recipe.data.view, text=self.text)
        empty = 0
        for (batch,) in loader:
            empty = 0 if batch.meta.num_samples else empty + 1
            if not empty:
                yield batch
            elif empty >= self.stream.packs_an_epoch():
                raise ShardError(f"no frame of the data can be used, among them {batch.meta.bad[0]}; mend the shards")

    def summary(self, world_size: int) -> list[str]:
        """Lines that say what will be read."""
        packs = self.recipe.steps * self.recipe.batch.micro_batches * world_size
        epoch = self.stream.packs_an_epoch()
        lines = [
            f"data: {source.name}: {len(source.index)} frames, "
            f"{source.index.num_questions} questions, weight {source.weight:g}"
            for source in self.sources
        ]
        lines.append(
            f"plan: {epoch} packs an epoch; {self.recipe.steps} steps x {world_size} ranks x "
            f"{self.recipe.batch.micro_batches} micro batches = {packs} packs, {packs / epoch:.2f} epochs"
        )
        if self.left_out:
            dataset, sample, question, tokens = self.left_out[0]
            key = self.sources[dataset].index.samples[sample].key
            lines.append(
                f"warning: {len(self.left_out)} questions fit no pack and are left out, first {key} "
                f"question {question} ({tokens} tokens); raise data.max_tokens or data.max_tiles"
            )
        return lines


def make_data(recipe: Recipe, text: TextSettings | None, ranks: Ranks | None, cost: CostModel | None = None) -> Data:
    """Read indexes, count lengths, plan. The main rank comes first and leaves its counts beside the shards.

    Args:
        recipe: data section and seed.
        text: of the stage.
        ranks: None where this process is alone.
        cost: by which packs are balanced over ranks; None counts tokens.

    Raises:
        ShardError, BadSample, PlanError: as the functions of `data_shards`.
        TargetsError, CodebookError: cached targets that are not the recipe's.
    """
    build = partial(_make_data, recipe, text, cost)
    return build() if ranks is None else ranks.main_first(build)


def _make_data(recipe: Recipe, text: TextSettings | None, cost: CostModel | None) -> Data:
    data = recipe.data
    cache = CacheSettings(directory=data.cache_dir, max_bytes=round(data.cache_gib * (1 << 30)))
    sources = [_source(recipe, dataset, cache) for dataset in data.datasets]
    mixture = [
        MixtureEntry(sizes=_sizes(recipe, text, s.index), weight=s.weight, shards=shard_numbers(s.index))
        for s in sources
    ]
    limits = PackLimits(max_tokens=data.max_tokens if text else 1, max_tiles=data.max_tiles)
    stream = PackStream(mixture, limits, data.questions_per_visit if text else 1, recipe.seed, cost=cost)
    return Data(recipe=recipe, sources=sources, stream=stream, text=text, left_out=oversized(mixture, limits))


def _source(recipe: Recipe, dataset: DatasetSection, cache: CacheSettings) -> FrameSource:
    index = open_dataset(dataset.path, cache)
    targets = cached_targets(recipe, dataset, index, cache)
    return FrameSource(name=dataset.name, index=index, weight=dataset.weight, targets=targets)


def _sizes(recipe: Recipe, text: TextSettings | None, index: DatasetIndex) -> SizeTable:
    if text is None:
        return tile_sizes(index, recipe.data.view)
    return sample_sizes(
        index,
        tokenizer=text.tokenizer,
        template=text.template,
        layout=recipe.data.view,
        tokens_per_tile=text.tokens_per_tile,
    )
