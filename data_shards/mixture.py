"""Token and tile counts of several datasets come in; flat tables of what can be shown, and of what cannot, come out."""

from collections.abc import Sequence
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


@dataclass(frozen=True, kw_only=True)
class MixtureEntry:
    """One dataset of a mixture; weight 1 shows each question once an epoch, 2.5 twice in full and half of it again."""

    sizes: Sequence[SampleSize]
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class FlatMixture:
    """All samples of a mixture that can be shown, S of them, with the Q questions that fit."""

    dataset: np.ndarray  # [S]
    sample: np.ndarray  # [S]
    prefix: np.ndarray  # [S]
    tiles: np.ndarray  # [S]
    first: np.ndarray  # [S + 1], into the two below
    tokens: np.ndarray  # [Q]
    question: np.ndarray  # [Q]


def oversized(mixture: Sequence[MixtureEntry], limits: PackLimits) -> list[tuple[int, int, int, int]]:
    """Questions that no pack can hold: (dataset, sample, question, tokens with prefix).

    Question is -1 for a sample without questions that has too many tiles.
    """
    found = []
    for d, entry in enumerate(mixture):
        for s, size in enumerate(entry.sizes):
            too_wide = size.tiles > limits.max_tiles
            whole = [size.prefix_tokens + tokens for tokens in size.question_tokens]
            found += [(d, s, q, n) for q, n in enumerate(whole) if too_wide or n > limits.max_tokens]
            if not whole and too_wide:
                found.append((d, s, -1, size.prefix_tokens))
    return found


def flatten(mixture: Sequence[MixtureEntry], limits: PackLimits) -> FlatMixture:
    """All samples in one table, without questions that no pack can hold.

    Raises:
        PlanError: nothing is left.
    """
    sizes = list(chain.from_iterable(entry.sizes for entry in mixture))
    dataset = np.repeat(np.arange(len(mixture)), [len(entry.sizes) for entry in mixture])
    sample = np.concatenate([np.arange(len(entry.sizes)) for entry in mixture])
    prefix = np.array([size.prefix_tokens for size in sizes], dtype=np.int64)
    tiles = np.array([size.tiles for size in sizes], dtype=np.int64)
    counts = np.array([len(size.question_tokens) for size in sizes], dtype=np.int64)
    tokens = np.fromiter(chain.from_iterable(size.question_tokens for size in sizes), np.int64, counts.sum())
    owner = np.repeat(np.arange(len(sizes)), counts)
    question = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
    asked = (prefix[owner] + tokens <= limits.max_tokens) & (tiles[owner] <= limits.max_tiles)
    fitting = np.bincount(owner[asked], minlength=len(sizes))
    shown = fitting > 0 if len(tokens) else (tiles > 0) & (tiles <= limits.max_tiles) & (prefix <= limits.max_tokens)
    if not shown.any():
        raise PlanError(
            f"mixture: got {len(sizes)} samples, none of which fits {limits.max_tokens} tokens and {limits.max_tiles} "
            "tiles; raise the limits or lower the tiles of a sample"
        )
    return FlatMixture(
        dataset=dataset[shown],
        sample=sample[shown],
        prefix=prefix[shown],
        tiles=tiles[shown],
        first=np.concatenate([[0], np.cumsum(fitting[shown])]),
        tokens=tokens[asked],
        question=question[asked],
    )


def epoch_rows(flat: FlatMixture, weights: Sequence[float], seed: int, epoch: int) -> np.ndarray:
    """Rows of `flat` shown in an epoch: each floor(weight) times, and for the rest a window of a fixed random order."""
    rows = []
    for d, weight in enumerate(weights):
        own = np.flatnonzero(flat.dataset == d)
        whole, rest = divmod(weight, 1.0)
        mixed = np.random.default_rng([seed, d, 2]).permutation(own)
        begin, end = int(epoch * rest * len(own)), int((epoch + 1) * rest * len(own))
        rows += [own] * int(whole)
        rows.append(mixed[np.arange(begin, end) % max(len(own), 1)])
    return np.concatenate(rows)


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
