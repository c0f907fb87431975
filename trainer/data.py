"""Recipe and stage in; the mixture's plan, its loader and a summary of it out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from data_shards.collate import Batch
from data_shards.cost import CostModel
from data_shards.entries import ShardError
from data_shards.loader import FrameSource, PackLoader, TextSettings
from data_shards.mixture import PackLimits, least_limits
from data_shards.plan import PackStream
from data_shards.read import has_all_cameras
from data_shards.token_fractions import GENERAL_SHARE, default_fractions, shares, with_fractions
from trainer.dist import Ranks
from trainer.mixture import Mixture, check_same, make_mixture
from trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a stage is trained on.

    Attributes:
        stream: the endless order of packs.
        text: None for stages on images only.
        mixture: what the plan is made of.
        is_usual: whether driving and general datasets have their usual fractions, because the recipe says nothing.
    """

    recipe: Recipe
    stream: PackStream
    text: TextSettings | None
    mixture: Mixture
    is_usual: bool = False

    @property
    def sources(self) -> Sequence[FrameSource]:
        """The datasets."""
        return self.mixture.sources

    @property
    def num_samples(self) -> int:
        """Frames of all datasets together."""
        return sum(len(source.index) for source in self.sources)

    @property
    def least_limits(self) -> PackLimits:
        """Limits of a pack that leave out no more samples and questions than the recipe's do."""
        return least_limits(self.mixture.entries, self.mixture.limits)

    def loader(self, ranks: Ranks, start_position: int) -> PackLoader:
        """This rank's steps from a position in the plan on."""
        data = self.recipe.data
        return PackLoader(
            self.sources,
            self.stream,
            layout=data.view,
            text=self.text,
            rank=ranks.rank,
            world_size=ranks.world_size,
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
        kind = "tokens" if self.text else "tiles"
        lines = [
            f"data: {source.name}: {len(source.index)} frames, {source.index.num_questions} questions, weight "
            f"{weight:.4g}, {share:.1%} of the {kind}"
            for source, weight, share in zip(self.sources, self.stream.weights, shares(self.stream), strict=True)
        ]
        if self.is_usual:
            share = f"{1 - GENERAL_SHARE:.0%} driving and {GENERAL_SHARE:.0%} general"
            lines.append(f"mixture: {share} tokens, the default; give datasets a weight or a fraction for others")
        lines.append(
            f"plan: {epoch} packs an epoch; {self.recipe.steps} steps x {world_size} ranks x "
            f"{self.recipe.batch.micro_batches} micro batches = {packs} packs, {packs / epoch:.2f} epochs"
        )
        if self.mixture.bad:
            bad = self.mixture.bad
            lines.append(f"warning: {len(bad)} samples, or questions of them, are left out, first {bad[0]}")
        return lines


def make_data(recipe: Recipe, text: TextSettings | None, ranks: Ranks | None, cost: CostModel | None = None) -> Data:
    """Read indexes, count lengths, plan.

    Args:
        recipe: data section and seed.
        text: of the stage.
        ranks: None where this process is alone.
        cost: by which packs are balanced over ranks; None counts tokens.

    Raises:
        TargetsError, CodebookError: cached targets that are not the recipe's.
        ShardError, PlanError: as the functions of `data_shards`, and where ranks would follow different plans.
    """
    mixture = make_mixture(recipe, text, ranks)
    if ranks is not None:
        check_same(mixture, ranks)
    stream = PackStream(mixture.entries, mixture.limits, mixture.questions_per_visit, recipe.seed, cost=cost)
    given = [dataset.fraction for dataset in recipe.data.datasets if dataset.fraction is not None]
    usual = None if given else _usual_fractions(recipe, mixture, stream)
    fractions = given or usual
    if fractions:
        stream = with_fractions(stream, fractions)
    return Data(recipe=recipe, stream=stream, text=text, mixture=mixture, is_usual=usual is not None)


def _usual_fractions(recipe: Recipe, mixture: Mixture, stream: PackStream) -> list[float] | None:
    """Of a stage with questions whose recipe gives no weights; None where datasets are of one kind."""
    if recipe.stage == "distill" or any(dataset.weight is not None for dataset in recipe.data.datasets):
        return None
    is_general = [not any(map(has_all_cameras, islice(source.index.samples, 1))) for source in mixture.sources]
    return default_fractions(stream, is_general)
