"""Datasets in, the PackStream over them out, where one process counts the lengths of all their samples by itself."""

from collections.abc import Sequence

from data_shards.frame_dataset import FrameSource, TextSettings
from data_shards.lengths import sample_sizes, shard_numbers, tile_sizes
from data_shards.mixture import MixtureEntry, PackLimits
from data_shards.plan import PackStream
from data_shards.view_layout import ViewLayout


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
            shards=shard_numbers(source.index),
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
    mixture = [
        MixtureEntry(sizes=tile_sizes(source.index, layout), weight=source.weight, shards=shard_numbers(source.index))
        for source in sources
    ]
    return PackStream(mixture, PackLimits(max_tokens=1, max_tiles=max_tiles), 1, seed)
