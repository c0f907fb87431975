"""Token and tile counts of several datasets come in; flat tables of what can be shown, and of what cannot, come out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import numpy as np


class PlanError(ValueError):
    """A plan that cannot be made; the message names field, got, expected and fix."""


@dataclass(frozen=True, kw_only=True)
class PackLimits:
    """What one pack may hold: tokens (prefixes and segments together) and image tiles."""

    max_tokens: int
    max_tiles: int


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """Size of one sample: tokens of its prefix, tokens of each question's segment, tiles of its images."""

    prefix_tokens: int
    question_tokens: tuple[int, ...]
    tiles: int


@dataclass(frozen=True, kw_only=True, eq=False)
class SizeTable:
    """Sizes of S samples with Q questions in columns: ten million samples are some arrays, not ten million objects.

    Attributes:
        prefix, tiles: int32 [S].
        first: int64 [S + 1]; the questions of sample s are first[s] to first[s + 1].
        tokens: int32 [Q].
    """

    prefix: np.ndarray
    tiles: np.ndarray
    first: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, sizes: Iterable[SampleSize]) -> "SizeTable":
        """The table of single sizes."""
        rows = list(sizes)
        counts = [len(row.question_tokens) for row in rows]
        return cls(
            prefix=np.array([row.prefix_tokens for row in rows], np.int32),
            tiles=np.array([row.tiles for row in rows], np.int32),
            first=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64),
            tokens=np.fromiter(chain.from_iterable(row.question_tokens for row in rows), np.int32, sum(counts)),
        )

    @classmethod
    def joined(cls, tables: Sequence["SizeTable"]) -> "SizeTable":
        """Several tables, one after the other."""
        empty = cls.of(())
        counts = [np.diff(table.first) for table in tables]
        return cls(
            prefix=np.concatenate([empty.prefix, *(table.prefix for table in tables)]),
            tiles=np.concatenate([empty.tiles, *(table.tiles for table in tables)]),
            first=np.concatenate([[0], np.cumsum(np.concatenate([[], *counts]), dtype=np.int64)]).astype(np.int64),
            tokens=np.concatenate([empty.tokens, *(table.tokens for table in tables)]),
        )

    def __len__(self) -> int:
        return len(self.prefix)

    def __getitem__(self, i: int) -> SampleSize:
        return SampleSize(
            prefix_tokens=int(self.prefix[i]),
            question_tokens=tuple(self.tokens[self.first[i] : self.first[i + 1]].tolist()),
            tiles=int(self.tiles[i]),
        )

    def __iter__(self) -> Iterator[SampleSize]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureEntry:
    """One dataset of a mixture.

    Attributes:
        sizes: of its samples, in index order.
        weight: 1 shows each question once an epoch, 2.5 twice in full and half of them again.
        shards: int [S], the shard of each sample; samples of a shard are shown near each other, so that reading stays
            near-sequential. None where all may be shown in any order.
    """

    sizes: SizeTable
    weight: float = 1.0
    shards: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FlatMixture:
    """All samples of a mixture that can be shown, S of them, with the Q questions that fit."""

    dataset: np.ndarray  # [S]
    sample: np.ndarray  # [S]
    shard: np.ndarray  # [S], counted over all datasets
    prefix: np.ndarray  # [S]
    tiles: np.ndarray  # [S]
    first: np.ndarray  # [S + 1], into the two below
    tokens: np.ndarray  # [Q]
    question: np.ndarray  # [Q]


def oversized(mixture: Sequence[MixtureEntry], limits: PackLimits) -> list[tuple[int, int, int, int]]:
    """Questions that no pack can hold: (dataset, sample, question, tokens with prefix).

    Question is -1 for a sample without questions that has too many tiles.
    """
    found: list[tuple[int, int, int, int]] = []
    for d, entry in enumerate(mixture):
        sizes = entry.sizes
        owner, fits = _questions(sizes, limits)
        whole = sizes.prefix[owner] + sizes.tokens
        rows = [(int(owner[q]), int(q - sizes.first[owner[q]]), int(whole[q])) for q in np.flatnonzero(~fits)]
        silent = np.flatnonzero((np.diff(sizes.first) == 0) & (sizes.tiles > limits.max_tiles))
        rows += [(int(s), -1, int(sizes.prefix[s])) for s in silent]
        found += [(d, *row) for row in sorted(rows)]
    return found


def least_limits(mixture: Sequence[MixtureEntry], limits: PackLimits) -> PackLimits:
    """The smallest limits that leave out no more than `limits` do: the largest question with its prefix, and the most
    tiles of a sample, that fit."""
    tokens, tiles = [1], [1]
    for entry in mixture:
        sizes = entry.sizes
        owner, fits = _questions(sizes, limits)
        whole = sizes.prefix[owner] + sizes.tokens
        silent = (np.diff(sizes.first) == 0) & (sizes.tiles <= limits.max_tiles)
        tokens.append(int(whole[fits].max(initial=1)))
        tiles += [int(sizes.tiles[owner][fits].max(initial=1)), int(sizes.tiles[silent].max(initial=1))]
    return PackLimits(max_tokens=max(tokens), max_tiles=max(tiles))


def flatten(mixture: Sequence[MixtureEntry], limits: PackLimits) -> FlatMixture:
    """All samples in one table, without questions that no pack can hold.

    Raises:
        PlanError: nothing is left.
    """
    sizes = SizeTable.joined([entry.sizes for entry in mixture])
    owner, asked = _questions(sizes, limits)
    fitting = np.bincount(owner[asked], minlength=len(sizes))
    fits = (sizes.tiles <= limits.max_tiles) & (sizes.prefix <= limits.max_tokens)
    shown = fitting > 0 if len(sizes.tokens) else (sizes.tiles > 0) & fits
    if not shown.any():
        raise PlanError(
            f"mixture: got {len(sizes)} samples, none of which fits {limits.max_tokens} tokens and {limits.max_tiles} "
            "tiles; raise the limits or lower the tiles of a sample"
        )
    question = (np.arange(len(owner)) - sizes.first[owner]).astype(np.int32)
    lengths = [len(entry.sizes) for entry in mixture]
    return FlatMixture(
        dataset=np.repeat(np.arange(len(mixture), dtype=np.int32), lengths)[shown],
        sample=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])[shown],
        shard=_shard_numbers(mixture)[shown],
        prefix=sizes.prefix[shown],
        tiles=sizes.tiles[shown],
        first=np.concatenate([[0], np.cumsum(fitting[shown])]),
        tokens=sizes.tokens[asked],
        question=question[asked],
    )


def typical_tokens(flat: FlatMixture, questions_per_visit: int, num_datasets: int) -> np.ndarray:
    """Tokens that a sample takes about when all its questions are asked, a prefix for each visit, mean of each dataset
    [D]; tiles in a mixture without questions."""
    visits = np.maximum(1, np.rint(np.diff(flat.first) / questions_per_visit))
    cumulative = np.concatenate([[0], np.cumsum(flat.tokens, dtype=np.int64)])
    each = flat.prefix * visits + np.diff(cumulative[flat.first]) if len(flat.tokens) else flat.tiles
    samples = np.bincount(flat.dataset, minlength=num_datasets)
    return np.bincount(flat.dataset, weights=each, minlength=num_datasets) / np.maximum(samples, 1)


def check_settings(mixture: Sequence[MixtureEntry], limits: PackLimits, questions_per_visit: int) -> None:
    """Refuse settings that are not positive, naming all of them at once.

    Raises:
        PlanError: there is such a one.
    """
    bad = [f"weight of dataset {d}: got {e.weight}" for d, e in enumerate(mixture) if not 0 < e.weight < float("inf")]
    values = {**asdict(limits), "questions_per_visit": questions_per_visit}
    bad += [f"{name}: got {value}" for name, value in values.items() if value < 1]
    if not mixture:
        bad.append("mixture: got no dataset")
    if bad:
        raise PlanError("; ".join(bad) + "; expected positive numbers")


def _questions(sizes: SizeTable, limits: PackLimits) -> tuple[np.ndarray, np.ndarray]:
    """Of each question the sample it is of, int32 [Q], and whether a pack can hold it, bool [Q]."""
    owner = np.repeat(np.arange(len(sizes), dtype=np.int32), np.diff(sizes.first))
    fits = (sizes.prefix[owner] + sizes.tokens <= limits.max_tokens) & (sizes.tiles[owner] <= limits.max_tiles)
    return owner, fits


def _shard_numbers(mixture: Sequence[MixtureEntry]) -> np.ndarray:
    numbers, start = [], 0
    for entry in mixture:
        own = np.zeros(len(entry.sizes), np.int32) if entry.shards is None else entry.shards.astype(np.int32)
        numbers.append(own + start)
        start += int(own.max(initial=-1)) + 1
    return np.concatenate(numbers)
