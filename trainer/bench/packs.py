"""Sizes in, random packs as long as those of driving frames out, planned as in training.

Lengths are drawn as measured on real DriveLM frames: 80 to 99 questions of some 77 tokens, and for images 13 tiles, or
as many as a pack may hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_shards.chat import TokenSegments
from data_shards.collate import Batch, to_tensors
from data_shards.pack import PartMeta, build_pack
from data_shards.plan import CostModel, MixtureEntry, PackLimits, PackPlan, PackStream, SizeTable

DATASET = "random"
_FRAMES = 400
_TILES = 13
_PREFIX_WORDS = 52
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
        padded: every conversation is filled up to the longest there is, as in a padded batch.
        tile_size: in pixels.
        tokens_per_tile: image tokens of a tile; 0 for jobs on images only.
        image_token: its id, larger than those of all words drawn.
    """

    max_tokens: int
    max_tiles: int
    questions_per_visit: int
    padded: bool
    tile_size: int
    tokens_per_tile: int
    image_token: int


def random_batches(settings: PackSettings, cost: CostModel, count: int, seed: int = 0) -> list[Batch]:
    """The first `count` packs of a plan over drawn lengths."""
    rng = np.random.default_rng(seed)
    lengths = drawn_sizes(settings, rng)
    planned = _padded(lengths) if settings.padded else lengths
    limits = PackLimits(max_tokens=settings.max_tokens, max_tiles=settings.max_tiles)
    stream = PackStream([MixtureEntry(sizes=planned)], limits, settings.questions_per_visit, seed, cost=cost)
    packs = (stream.pack(stream.advance(stream.start, index)) for index in range(count))
    return [
        to_tensors(build_pack(list(_parts(pack, planned, lengths, settings, rng)), loss_weight="square"))
        for pack in packs
    ]


def drawn_sizes(settings: PackSettings, rng: np.random.Generator) -> SizeTable:
    """Tokens and tiles of driving frames; without tokens where the job is on images only."""
    tiles = min(_TILES, settings.max_tiles)
    asked = rng.integers(80, 100, _FRAMES) if settings.tokens_per_tile else np.zeros(_FRAMES, np.int64)
    prefix = _PREFIX_WORDS + tiles * settings.tokens_per_tile if settings.tokens_per_tile else 0
    return SizeTable(
        prefix=np.full(_FRAMES, prefix, np.int32),
        tiles=np.full(_FRAMES, tiles, np.int32),
        first=np.concatenate([[0], np.cumsum(asked)]),
        tokens=(_QUESTION_WORDS + 1 + rng.gamma(1.5, 25, int(asked.sum()))).astype(np.int32),
    )


def useful_tokens(batch: Batch) -> int:
    """Tokens of a batch without those that fill conversations up, which have id 0."""
    return int((batch.input_ids != 0).sum())


def _padded(sizes: SizeTable) -> SizeTable:
    longest = np.full_like(sizes.tokens, sizes.tokens.max(initial=0))
    return SizeTable(prefix=sizes.prefix, tiles=sizes.tiles, first=sizes.first, tokens=longest)


def _parts(
    pack: PackPlan, planned: SizeTable, lengths: SizeTable, settings: PackSettings, rng: np.random.Generator
) -> Iterator[tuple[TokenSegments, np.ndarray, PartMeta]]:
    for visit in pack.visits:
        size = planned[visit.sample]
        own = [lengths[visit.sample].question_tokens[q] for q in visit.questions]
        whole = [size.question_tokens[q] for q in visit.questions]
        segments = tuple(_words(length, settings, rng, upto) for length, upto in zip(own, whole, strict=True))
        tokens = TokenSegments(
            prefix=_prefix(size.prefix_tokens, size.tiles, settings, rng),
            segments=segments,
            label_spans=tuple(((_QUESTION_WORDS, length),) for length in own),
        )
        tiles = rng.integers(0, 256, (size.tiles, settings.tile_size, settings.tile_size, 3), dtype=np.uint8)
        kinds = ("perception",) * len(visit.questions)
        yield (
            tokens,
            tiles,
            PartMeta(key=f"frame{visit.sample}", dataset=DATASET, question_ids=visit.questions, kinds=kinds),
        )


def _prefix(length: int, tiles: int, settings: PackSettings, rng: np.random.Generator) -> np.ndarray:
    ids = _words(length, settings, rng, length)
    ids[_PREFIX_WORDS // 2 :][: tiles * settings.tokens_per_tile] = settings.image_token
    return ids


def _words(length: int, settings: PackSettings, rng: np.random.Generator, upto: int) -> np.ndarray:
    """Random ids, then zeros up to `upto`."""
    ids = np.zeros(upto, np.int32)
    ids[:length] = rng.integers(_FIRST_WORD, settings.image_token, length)
    return ids
