"""A flat mixture, weights and an epoch come in; the rows shown in each section of that epoch come out.

A section is a part of an epoch that is planned at once: whoever resumes plans only the section he stands in. Nothing
here takes time by the sample, only by the shard and by the row that is asked for.
"""

from collections.abc import Sequence

import numpy as np

from data_shards.mixture import FlatMixture

SECTION_VISITS = 32768
"""Visits of one section, about: enough to fill and balance packs, few enough to be planned in a second or two."""


def num_sections(flat: FlatMixture, weights: Sequence[float], questions_per_visit: int) -> int:
    """Sections of every epoch."""
    visits = np.maximum(-(-np.diff(flat.first) // questions_per_visit), 1)
    total = np.bincount(flat.dataset, weights=visits, minlength=len(weights)) @ np.asarray(weights)
    return max(1, round(float(total) / SECTION_VISITS))


class SectionRows:
    """The rows of a mixture, handed out section by section: shards in an order of their own each epoch, so that a
    section reads few of them."""

    def __init__(self, flat: FlatMixture, weights: Sequence[float], seed: int) -> None:
        self._seed, self._weights = seed, weights
        borders = np.flatnonzero(np.diff(flat.shard, prepend=-1, append=-1))
        self._begin, self._size = borders[:-1], np.diff(borders)  # of each shard's rows
        self._shards = [np.flatnonzero(flat.dataset[self._begin] == d) for d in range(len(weights))]

    def rows(self, epoch: int, section: int, sections: int) -> np.ndarray:
        """Rows of the flat mixture in one of `sections` equal parts of an epoch, int64 [R], each dataset in its share.

        A weight's whole part shows every row so often. Its rest shows a window of one fixed order, which moves on
        every epoch until all rows had their turn.
        """
        parts = []
        for d, weight in enumerate(self._weights):
            whole, rest = divmod(weight, 1.0)
            total = int(self._size[self._shards[d]].sum())
            for turn in range(int(whole)):
                part = (total * i // sections for i in (section, section + 1))
                parts.append(self._slice(d, [self._seed, d, epoch, turn, 0], *part))
            window, end = int(epoch * rest * total), int((epoch + 1) * rest * total)
            begin, end = (window + (end - window) * i // sections for i in (section, section + 1))
            parts.append(self._slice(d, [self._seed, d, 2], begin, end))
        return np.concatenate(parts)

    def _slice(self, dataset: int, seed: list[int], begin: int, end: int) -> np.ndarray:
        """Rows begin to end of a dataset in the order that `seed` gives; behind its last row it begins again."""
        order = np.random.default_rng([*seed, 1]).permutation(self._shards[dataset])
        ends = np.cumsum(self._size[order])
        pieces = []
        while begin < end:
            offset = begin % int(ends[-1])
            i = int(np.searchsorted(ends, offset, side="right"))
            shard, first = order[i], int(ends[i] - self._size[order[i]])
            count = min(end - begin, int(ends[i]) - offset)
            mixed = np.random.default_rng([*seed, int(shard), 4]).permutation(self._size[shard])
            pieces.append(self._begin[shard] + mixed[offset - first : offset - first + count])
            begin += count
        return np.concatenate([np.zeros(0, np.int64), *pieces])
