"""Token and tile counts of all samples come in; the order of all packs comes out, a pure function of seed and position.

An epoch is cut into sections that are planned one by one. A position is one integer, the section (counted over all
epochs) and the pack within it: to resume there plans one section, however large the dataset.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from data_shards.cost import CostModel, balanced_order
from data_shards.fill import Filler, Runs, num_turns
from data_shards.mixture import (
    FlatMixture,
    MixtureEntry,
    PackLimits,
    PlanError,
    check_settings,
    flatten,
    typical_tokens,
)
from data_shards.sections import SectionRows, num_sections

_PACK_BITS = 32


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


class SectionPlan:
    """All packs of one section in compact form; `plan[i]` is a PackPlan.

    Attributes:
        costs: [P], of each pack.
        shown: [D], tokens of each dataset, a prefix each time it is shown; tiles where the mixture has no question.
        samples: [D], samples of each dataset.
    """

    def __init__(
        self,
        flat: FlatMixture,
        rows: np.ndarray,
        questions: np.ndarray,
        visits: np.ndarray,
        spans: np.ndarray,
        costs: np.ndarray,
        shown: np.ndarray,
    ) -> None:
        """Keep the tables of a plan of R runs with Q questions, shown in V visits by P packs.

        Args:
            flat: the mixture.
            rows: int [R], the row of `flat` that each run shows.
            questions: int [Q], place in its frame of each question, run by run in the order asked.
            visits: int [V, 3], run, first question and the one behind the last, as places in `questions`.
            spans: int [P, 2], first visit of each pack and the one behind its last.
            costs, shown: see the class.
        """
        self._visits, self._spans, self.costs, self.shown = visits, spans, costs, shown
        self.samples = np.bincount(flat.dataset[rows], minlength=len(shown))
        self._dataset, self._sample, self._questions = flat.dataset[rows], flat.sample[rows], questions

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, i: int) -> PackPlan:
        begin, end = self._spans[i]
        return PackPlan(
            visits=tuple(
                Visit(
                    dataset=int(self._dataset[run]),
                    sample=int(self._sample[run]),
                    questions=tuple(self._questions[first:last].tolist()),
                )
                for run, first, last in self._visits[begin:end].tolist()
            )
        )


def plan_epoch(
    mixture: Sequence[MixtureEntry],
    *,
    limits: PackLimits,
    questions_per_visit: int,
    seed: int,
    epoch: int,
    cost: CostModel | None = None,
) -> list[PackPlan]:
    """All packs of one epoch, in order; see `PackStream`.

    Raises:
        PlanError: limits, weights or `questions_per_visit` that are not positive, or a mixture with nothing to show.
    """
    stream = PackStream(mixture, limits, questions_per_visit, seed, cost=cost)
    numbers = range(epoch * stream.sections, (epoch + 1) * stream.sections)
    return [section[i] for section in map(stream.section, numbers) for i in range(len(section))]


class PackStream:
    """An endless sequence of packs, epoch after epoch, read by positions.

    With weight 1 every question that fits is asked exactly once an epoch; a fraction of a weight shows that part of the
    samples, another part each epoch, until all had their turn. A visit asks about `questions_per_visit` questions of
    its frame (1 to twice that, less one), so that packs come out full; 1 gives classic packing. Where no sample of the
    mixture has a question (vision-only jobs) each sample with tiles is shown once; elsewhere samples without are left
    out.

    Rank r of W reads, for micro batch a of A of step s, the pack (s * A + a) * W + r places behind the start: any world
    size walks the same sequence, and each rank has the same number of packs a step. Neighbours cost the same.

    Attributes:
        sections: of each epoch.
        weights: of the datasets.
        num_samples: [D], samples of each dataset that can be shown.
    """

    def __init__(
        self,
        mixture: Sequence[MixtureEntry],
        limits: PackLimits,
        questions_per_visit: int,
        seed: int,
        *,
        cost: CostModel | None = None,
    ) -> None:
        check_settings(mixture, limits, questions_per_visit)
        self._limits, self._target, self._seed = limits, questions_per_visit, seed
        self._cost = cost or CostModel()
        self._flat = flatten(mixture, limits)
        self.num_samples = np.bincount(self._flat.dataset, minlength=len(mixture))
        self._weigh([entry.weight for entry in mixture])

    def with_weights(self, weights: Sequence[float]) -> "PackStream":
        """The stream of the same datasets with other weights, all positive."""
        other = copy.copy(self)
        other._weigh(weights)
        return other

    def _weigh(self, weights: Sequence[float]) -> None:
        self.weights = tuple(weights)
        self.sections = num_sections(self._flat, self.weights, self._target)
        self._rows = SectionRows(self._flat, self.weights, self._seed)
        self._plans: dict[int, SectionPlan] = {}

    def pack(self, position: int) -> PackPlan:
        """The pack at a position that `advance` gave, or at 0."""
        section, i = _split(position)
        return self.section(section)[i]

    def advance(self, position: int, packs: int) -> int:
        """The position `packs` packs later.

        Raises:
            PlanError: epochs without a pack follow each other without end, where weights leave no whole sample to them.
        """
        section, i = _split(position)
        i += packs
        empty = 0
        while i >= len(plan := self.section(section)):
            empty = 0 if len(plan) else empty + 1
            if empty > 1000 * self.sections:
                raise PlanError(f"mixture: got no pack in {empty} sections, expected some; raise the weights")
            i -= len(plan)
            section += 1
        return (section << _PACK_BITS) | i

    @property
    def start(self) -> int:
        """The position of the first pack."""
        return self.advance(0, 0)

    def epoch_of(self, position: int) -> float:
        """Epochs done at a position, with a fraction."""
        section, i = _split(position)
        return (section + i / max(1, len(self.section(section)))) / self.sections

    def packs_an_epoch(self) -> int:
        """Number of packs of an epoch, exact where it has one section, else from its first."""
        return len(self.section(0)) * self.sections

    def typical(self) -> np.ndarray:
        """Tokens, or tiles, that a sample of each dataset takes about, [D]; see `typical_tokens`."""
        return typical_tokens(self._flat, self._target, len(self.weights))

    def section(self, number: int) -> SectionPlan:
        """The plan of a section, counted over all epochs; the newest two are kept."""
        if number not in self._plans:
            plan = self._plan(number)
            self._plans = {**{n: p for n, p in self._plans.items() if n == number - 1}, number: plan}
        return self._plans[number]

    def _plan(self, number: int) -> SectionPlan:
        epoch, section = divmod(number, self.sections)
        rows = self._rows.rows(epoch, section, self.sections)
        rng = np.random.default_rng([self._seed, epoch, section, 1])
        return _plan_section(self._flat, rows, self._limits, self._target, self._cost, rng, len(self.weights))


def _split(position: int) -> tuple[int, int]:
    return position >> _PACK_BITS, position & ((1 << _PACK_BITS) - 1)


def _plan_section(
    flat: FlatMixture,
    rows: np.ndarray,
    limits: PackLimits,
    questions_per_visit: int,
    cost: CostModel,
    rng: np.random.Generator,
    num_datasets: int,
) -> SectionPlan:
    """Packs of one section, in balanced order; each of its rows, int [R], is a run of all its questions."""
    counts = np.diff(flat.first)[rows]
    first = np.concatenate([[0], np.cumsum(counts)])
    run_of = np.repeat(np.arange(len(rows)), counts)
    source = np.arange(first[-1]) + np.repeat(flat.first[rows] - first[:-1], counts)
    source = source[np.argsort(run_of + rng.random(len(source)))]  # shuffled within each run
    tokens = flat.tokens[source].astype(np.int64)
    cumulative = np.concatenate([[0], np.cumsum(tokens)])
    runs = Runs(prefix=flat.prefix[rows], tiles=flat.tiles[rows], first=first, cumulative=cumulative)
    order = rng.permutation(np.repeat(np.arange(len(rows)), num_turns(runs, questions_per_visit)))
    filler = Filler(
        runs, max_tokens=limits.max_tokens, max_tiles=limits.max_tiles, questions_per_visit=questions_per_visit
    )
    packs = filler.fill(order.tolist())
    visits = np.array(list(chain.from_iterable(packs)), dtype=np.int64).reshape(-1, 3)
    ends = np.cumsum([0, *map(len, packs)])
    costs = _pack_costs(runs, tokens, visits, ends, cost)
    shuffled = balanced_order(costs, rng)
    spans = np.stack([ends[:-1], ends[1:]], axis=1)[shuffled]
    shown = _shown(flat, rows, cumulative, visits, num_datasets)
    return SectionPlan(flat, rows, flat.question[source], visits, spans, costs[shuffled], shown)


def _shown(
    flat: FlatMixture, rows: np.ndarray, cumulative: np.ndarray, visits: np.ndarray, num_datasets: int
) -> np.ndarray:
    """What visits show of each dataset, [D]: tokens, or tiles where there are none.

    Args:
        rows, visits: as in `SectionPlan`.
        cumulative: int64 [Q + 1], tokens of all questions before each.
    """
    run, first, last = visits.T
    row = rows[run]
    each = flat.prefix[row] + cumulative[last] - cumulative[first] if len(flat.tokens) else flat.tiles[row]
    return np.bincount(flat.dataset[row], weights=each, minlength=num_datasets)


def _pack_costs(runs: Runs, tokens: np.ndarray, visits: np.ndarray, ends: np.ndarray, cost: CostModel) -> np.ndarray:
    """Cost of each pack [P], the sum of its visits' costs.

    Args:
        tokens: int64 [Q], of each question in the order asked.
        visits: int [V, 3], as in `SectionPlan`, pack by pack.
        ends: int [P + 1], visits of all packs before each.
    """
    run, first, last = visits.T
    squares = np.concatenate([[0], np.cumsum(tokens**2)])
    each = cost.visits(
        runs.prefix[run],
        runs.cumulative[last] - runs.cumulative[first],
        squares[last] - squares[first],
        runs.tiles[run],
    )
    return np.diff(np.concatenate([[0.0], np.cumsum(each)])[ends])
