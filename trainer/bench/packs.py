"""Sizes in, random packs as long as those of driving frames out, planned as in training.

Lengths are drawn as measured on real DriveLM frames: 80 to 99 questions of some 77 tokens, and for images 13 tiles, or
as many as a pack may hold. Beside them there may be general samples: 0 to 13 tiles and one longer answer each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data_shards.chat import TokenSegments
from data_shards.collate import Batch, Targets, to_tensors
from data_shards.cost import CostModel
from data_shards.mixture import MixtureEntry, PackLimits, SizeTable
from data_shards.pack import PackPart, PartMeta, build_pack
from data_shards.plan import PackPlan, PackStream, SectionPlan

DATASET = "random"
_FRAMES = 400
FRAME_TILES = 13
"""Of a driving frame, as `data_shards.view_layout` cuts it."""

_PREFIX_WORDS = 52
_GENERAL_WORDS = 30
_QUESTION_WORDS = 40
"""Tokens of a question before its answer."""

_FIRST_WORD = 3
"""Ids below stand for begin, end and unknown in every tokenizer here."""


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """What random packs look like.

    Attributes:
        max_tokens, max_tiles: of a pack.
        questions_per_visit: 1 is classic packing: every question brings its own images.
        padded: every conversation is filled up to the longest of its pack, as in a padded batch; the pack may then be
            longer than its limit.
        tile_size: in pixels.
        tokens_per_tile: image tokens of a tile; 0 for jobs on images only.
        image_token: its id, larger than those of all words drawn.
        general: general samples for each driving question.
        patches: of a tile, for cached targets of a teacher; 0 for none.
        entries, top_k: of the teacher's codebook, and those of them that are cached.
    """

    max_tokens: int
    max_tiles: int
    questions_per_visit: int
    padded: bool
    tile_size: int
    tokens_per_tile: int
    image_token: int
    general: float = 0.0
    patches: int = 0
    entries: int = 0
    top_k: int = 0


def random_batches(settings: PackSettings, cost: CostModel, count: int, seed: int = 0) -> list[Batch]:
    """`count` packs of a plan over drawn lengths, spread evenly over those with few and with many questions, in random
    order: few packs then have as many questions as the plan has on average."""
    rng = np.random.default_rng(seed)
    driving = drawn_sizes(settings, rng)
    lengths = [driving]
    if settings.general:
        lengths.append(general_sizes(round(settings.general * len(driving.tokens)), settings, rng))
    limits = PackLimits(max_tokens=settings.max_tokens, max_tiles=settings.max_tiles)
    mixture = [MixtureEntry(sizes=sizes) for sizes in lengths]
    stream = PackStream(mixture, limits, settings.questions_per_visit, seed, cost=cost)
    spread = _spread(stream.section(0), count)
    packs = [spread[int(i)] for i in rng.permutation(count)]
    batches = (
        to_tensors(build_pack(list(_parts(pack, lengths, settings, rng)), loss_weight="square")) for pack in packs
    )
    return [_with_targets(batch, settings, rng) if settings.patches else batch for batch in batches]


def drawn_sizes(settings: PackSettings, rng: np.random.Generator) -> SizeTable:
    """Tokens and tiles of driving frames; without tokens where the job is on images only."""
    tiles = min(FRAME_TILES, settings.max_tiles)
    asked = rng.integers(80, 100, _FRAMES) if settings.tokens_per_tile else np.zeros(_FRAMES, np.int64)
    prefix = _PREFIX_WORDS + tiles * settings.tokens_per_tile if settings.tokens_per_tile else 0
    return SizeTable(
        prefix=np.full(_FRAMES, prefix, np.int32),
        tiles=np.full(_FRAMES, tiles, np.int32),
        first=np.concatenate([[0], np.cumsum(asked)]),
        tokens=(_QUESTION_WORDS + 1 + rng.gamma(1.5, 25, int(asked.sum()))).astype(np.int32),
    )


def general_sizes(count: int, settings: PackSettings, rng: np.random.Generator) -> SizeTable:
    """Tokens and tiles of general samples, for jobs with words."""
    tiles = rng.integers(0, min(FRAME_TILES, settings.max_tiles) + 1, count).astype(np.int32)
    return SizeTable(
        prefix=(_GENERAL_WORDS + settings.tokens_per_tile * tiles).astype(np.int32),
        tiles=tiles,
        first=np.arange(count + 1),
        tokens=(_QUESTION_WORDS + 20 + rng.gamma(1.5, 200, count)).astype(np.int32),
    )


def useful_tokens(batch: Batch) -> int:
    """Tokens of a batch without those that fill conversations up, which have id 0."""
    return int((batch.input_ids != 0).sum())


def least_tokens(max_tiles: int, tokens_per_tile: int) -> int:
    """Tokens of a driving frame with the shortest question there can be."""
    return _PREFIX_WORDS + min(FRAME_TILES, max_tiles) * tokens_per_tile + _QUESTION_WORDS + 1


def without_padding(batch: Batch) -> Batch:
    """The batch without the tokens that fill conversations up."""
    real = batch.input_ids != 0
    before = torch.cat([real.new_zeros(1, dtype=torch.int64), real.cumsum(0)])
    return replace(
        batch,
        input_ids=batch.input_ids[real],
        position_ids=batch.position_ids[real],
        segment_ids=batch.segment_ids[real],
        groups=tuple((int(before[start]), int(before[end])) for start, end in batch.groups),
        label_positions=before[batch.label_positions],
        meta=replace(batch.meta, num_tokens=useful_tokens(batch)),
    )


def _spread(section: SectionPlan, count: int) -> list[PackPlan]:
    asked = [sum(len(visit.questions) for visit in section[i].visits) for i in range(len(section))]
    ascending = np.argsort(asked, kind="stable")
    places = ((np.arange(count) + 0.5) / count * len(asked)).astype(int)
    return [section[int(i)] for i in ascending[places]]


def _with_targets(batch: Batch, settings: PackSettings, rng: np.random.Generator) -> Batch:
    """The batch with log-probabilities of random entries for each patch of its tiles."""
    shape = (len(batch.tiles), settings.patches)
    first = rng.integers(0, settings.entries, (*shape, 1))
    indices = (first + np.arange(settings.top_k)) % settings.entries
    values = -rng.random((*shape, settings.top_k + 1), dtype=np.float32)
    targets = Targets(
        values=torch.from_numpy(values.astype(np.float16)),
        indices=torch.from_numpy(indices.astype(np.uint16)),
        features=None,
    )
    return replace(batch, targets=targets)


def _parts(
    pack: PackPlan, lengths: Sequence[SizeTable], settings: PackSettings, rng: np.random.Generator
) -> Iterator[PackPart]:
    sizes = [lengths[visit.dataset][visit.sample] for visit in pack.visits]
    asked = [[size.question_tokens[q] for q in visit.questions] for size, visit in zip(sizes, pack.visits, strict=True)]
    longest = max((size.prefix_tokens + max(own, default=0) for size, own in zip(sizes, asked, strict=True)), default=0)
    for visit, size, own in zip(pack.visits, sizes, asked, strict=True):
        whole = [longest - size.prefix_tokens if settings.padded else length for length in own]
        segments = tuple(_words(length, settings, rng, upto) for length, upto in zip(own, whole, strict=True))
        tokens = TokenSegments(
            prefix=_prefix(size.prefix_tokens, size.tiles, settings, rng),
            segments=segments,
            label_spans=tuple(((_QUESTION_WORDS, length),) for length in own),
        )
        tiles = rng.integers(0, 256, (size.tiles, settings.tile_size, settings.tile_size, 3), dtype=np.uint8)
        kinds = ("perception",) * len(visit.questions)
        meta = PartMeta(
            key=f"sample{visit.dataset}_{visit.sample}", dataset=DATASET, question_ids=visit.questions, kinds=kinds
        )
        yield PackPart(tokens=tokens, tiles=tiles, meta=meta)


def _prefix(length: int, tiles: int, settings: PackSettings, rng: np.random.Generator) -> np.ndarray:
    ids = _words(length, settings, rng, length)
    words = length - tiles * settings.tokens_per_tile
    ids[words // 2 :][: tiles * settings.tokens_per_tile] = settings.image_token
    return ids


def _words(length: int, settings: PackSettings, rng: np.random.Generator, upto: int) -> np.ndarray:
    """Random ids, then zeros up to `upto`."""
    ids = np.zeros(upto, np.int32)
    ids[:length] = rng.integers(_FIRST_WORD, settings.image_token, length)
    return ids
