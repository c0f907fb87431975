"""Token and tile counts of all samples come in; the order of all packs comes out, a pure function of seed and epoch."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from data_shards.fill import Filler, Runs, num_turns
from data_shards.mixture import (
    FlatMixture,
    MixtureEntry,
    PackLimits,
    PlanError,
    SampleSize,
    check_settings,
    epoch_rows,
    flatten,
    oversized,
)

__all__ = [
    "EpochPlan",
    "MixtureEntry",
    "PackLimits",
    "PackPlan",
    "PackStream",
    "PlanError",
    "SampleSize",
    "Visit",
    "oversized",
    "plan_epoch",
]


@dataclass(frozen=True, kw_only=True)
class Visit:
    """One sample shown once: position of dataset in the mixture, of sample in its index, and questions asked."""

    dataset: int
    sample: int
    questions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PackPlan:
    """The visits of one pack, in order."""

    visits: tuple[Visit, ...]


class EpochPlan:
    """All packs of one epoch in compact form; `plan[i]` is a PackPlan."""

    def __init__(
        self, flat: FlatMixture, rows: np.ndarray, questions: np.ndarray, packs: list[list[list[int]]]
    ) -> None:
        self._first = np.cumsum([0, *map(len, packs)])
        self._visits = np.array(list(chain.from_iterable(packs)), dtype=np.int64).reshape(-1, 3)
        self._dataset, self._sample, self._questions = flat.dataset[rows], flat.sample[rows], questions

    def __len__(self) -> int:
        return len(self._first) - 1

    def __getitem__(self, i: int) -> PackPlan:
        visits = self._visits[self._first[i] : self._first[i + 1]].tolist()
        return PackPlan(
            visits=tuple(
                Visit(
                    dataset=int(self._dataset[run]),
                    sample=int(self._sample[run]),
                    questions=tuple(self._questions[first:end].tolist()),
                )
                for run, first, end in visits
            )
        )


def plan_epoch(
    mixture: Sequence[MixtureEntry], *, limits: PackLimits, questions_per_visit: int, seed: int, epoch: int
) -> list[PackPlan]:
    """All packs of one epoch, in order.

    With weight 1 every question that fits is asked exactly once; a fraction of a weight shows that part of the samples,
    another part each epoch, until all had their turn. A visit asks about `questions_per_visit` questions of its frame
    (1 to twice that, less one), so that packs come out full; 1 gives classic packing. Where no sample of the mixture
    has a question (vision-only jobs) each sample with tiles is shown once; elsewhere samples without are left out.
    An epoch is empty where small weights leave no whole sample to it.

    Raises:
        PlanError: limits, weights or `questions_per_visit` that are not positive, or a mixture with nothing to show.
    """
    check_settings(mixture, limits, questions_per_visit)
    flat = flatten(mixture, limits)
    plan = _plan(flat, mixture, limits, questions_per_visit, seed, epoch)
    return [plan[i] for i in range(len(plan))]


class PackStream:
    """An endless sequence of packs, epoch after epoch, read by one integer.

    Rank r of W reads, for micro batch a of A of step s, position (s * A + a) * W + r: any world size walks the same
    sequence, and each rank has the same number of packs a step.
    """

    def __init__(
        self, mixture: Sequence[MixtureEntry], limits: PackLimits, questions_per_visit: int, seed: int
    ) -> None:
        check_settings(mixture, limits, questions_per_visit)
        self._mixture, self._limits, self._target, self._seed = mixture, limits, questions_per_visit, seed
        self._flat = flatten(mixture, limits)
        self._starts = [0]
        self._plans: dict[int, EpochPlan] = {}

    def packs_in_epoch(self, epoch: int) -> int:
        """Number of packs of an epoch; it differs a little from epoch to epoch."""
        return self._start(epoch + 1) - self._start(epoch)

    def epoch_of(self, position: int) -> tuple[int, int]:
        """Epoch of a position, and the position within it."""
        assert position >= 0, position
        while self._starts[-1] <= position:
            self._start(len(self._starts))
        epoch = bisect_right(self._starts, position) - 1
        return epoch, position - self._starts[epoch]

    def pack(self, position: int) -> PackPlan:
        """The pack at a position, counted over all epochs."""
        epoch, i = self.epoch_of(position)
        return self._plan(epoch)[i]

    def _start(self, epoch: int) -> int:
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + len(self._plan(len(self._starts) - 1)))
        return self._starts[epoch]

    def _plan(self, epoch: int) -> EpochPlan:
        if epoch not in self._plans:
            plan = _plan(self._flat, self._mixture, self._limits, self._target, self._seed, epoch)
            kept = {e: p for e, p in self._plans.items() if e == epoch - 1}
            self._plans = {**kept, epoch: plan}
        return self._plans[epoch]


def _plan(
    flat: FlatMixture,
    mixture: Sequence[MixtureEntry],
    limits: PackLimits,
    questions_per_visit: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    rows = epoch_rows(flat, [entry.weight for entry in mixture], seed, epoch)
    rng = np.random.default_rng([seed, epoch, 1])
    counts = np.diff(flat.first)[rows]
    first = np.concatenate([[0], np.cumsum(counts)])
    run_of = np.repeat(np.arange(len(rows)), counts)
    source = np.arange(first[-1]) + np.repeat(flat.first[rows] - first[:-1], counts)
    source = source[np.argsort(run_of + rng.random(len(source)))]  # shuffled within each run
    cumulative = np.concatenate([[0], np.cumsum(flat.tokens[source])])
    runs = Runs(prefix=flat.prefix[rows], tiles=flat.tiles[rows], first=first, cumulative=cumulative)
    order = rng.permutation(np.repeat(np.arange(len(rows)), num_turns(runs, questions_per_visit)))
    filler = Filler(
        runs, max_tokens=limits.max_tokens, max_tiles=limits.max_tiles, questions_per_visit=questions_per_visit
    )
    return EpochPlan(flat, rows, flat.question[source], filler.fill(order.tolist()))
