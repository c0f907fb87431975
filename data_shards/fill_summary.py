"""A dataset index and pack limits in, lines on token lengths and the fill of packs out."""

from dataclasses import dataclass
from pathlib import Path

from data_shards.chat import ChatTemplate
from data_shards.index import DatasetIndex
from data_shards.lengths import CountedSizes, count_samples
from data_shards.mixture import MixtureEntry, PackLimits, SizeTable, oversized
from data_shards.plan import plan_epoch
from data_shards.summary import spread
from data_shards.tokenizer import load_tokenizer
from data_shards.view_layout import ViewLayout


@dataclass(frozen=True, kw_only=True)
class FillSettings:
    """What decides on lengths and fill.

    Attributes:
        tokenizer: directory of a tokenizer.
        template, layout, tokens_per_tile, limits, questions_per_visit: as in a recipe.
        seed: of the plan.
    """

    tokenizer: Path
    template: ChatTemplate
    layout: ViewLayout
    tokens_per_tile: int
    limits: PackLimits
    questions_per_visit: int
    seed: int = 0


def fill_rows(index: DatasetIndex, settings: FillSettings) -> list[tuple[str, str]]:
    """Names and values for a summary.

    Raises:
        ShardError, PlanError, TokenizerError: as `count_samples`, `plan_epoch` and `load_tokenizer`.
    """
    counted = count_samples(
        index,
        tokenizer=load_tokenizer(settings.tokenizer),
        template=settings.template,
        layout=settings.layout,
        tokens_per_tile=settings.tokens_per_tile,
    )
    sizes = counted.table
    return [
        ("tokens", f"{spread(sizes.prefix[sizes.prefix > 0].tolist())} a prefix"),
        ("", f"{spread(sizes.tokens.tolist())} a question with its answer"),
        ("fill", _fill(sizes, settings)),
        ("  left out", _left_out(counted, settings.limits)),
    ]


def _left_out(counted: CountedSizes, limits: PackLimits) -> str:
    """What training does not show: samples that cannot be used, and questions that no pack can hold."""
    unfit = len(oversized([MixtureEntry(sizes=counted.table)], limits))
    first = f", first {counted.bad[0]}" if counted.bad else ""
    return f"{unfit:,} questions that fit no pack, {len(counted.bad):,} samples that cannot be used{first}"


def _fill(sizes: SizeTable, settings: FillSettings) -> str:
    limits = settings.limits
    packs = plan_epoch(
        [MixtureEntry(sizes=sizes)],
        limits=limits,
        questions_per_visit=settings.questions_per_visit,
        seed=settings.seed,
        epoch=0,
    )
    visits = [visit for pack in packs for visit in pack.visits]
    tiles = sum(sizes[visit.sample].tiles for visit in visits)
    questions = sum(len(visit.questions) for visit in visits)
    tokens = sum(
        sizes[visit.sample].prefix_tokens + sum(sizes[visit.sample].question_tokens[q] for q in visit.questions)
        for visit in visits
    )
    return (
        f"{len(packs)} packs of {limits.max_tokens} tokens and {limits.max_tiles} tiles: "
        f"{tokens / len(packs) / limits.max_tokens:.1%} of the tokens, "
        f"{tiles / len(packs) / limits.max_tiles:.1%} of the tiles, {questions / len(visits):.1f} questions a visit"
    )
