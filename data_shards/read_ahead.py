"""A rank's coming packs in, the same packs out, each with the pieces of tars that are worth fetching before it.

Far stores answer few large requests sooner than many small ones. The packs that a rank will make next are known, so the
frame it needs first brings along its neighbours in the tar that are needed later: they come in one request and wait in
the cache.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from data_shards.plan import PackPlan

MOST_PACKS = 4096
"""Packs looked at together; they read about as many shards as a section of the plan does."""

WINDOW_BYTES = 4 << 20
"""Longest request for several frames."""

MOST_GAP = 64 << 10
"""Bytes between two frames that are fetched for nothing rather than asking twice."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where a frame lies: file name of its tar, first byte, bytes."""

    shard: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Window:
    """Frames of one tar that are fetched in one request: number of their dataset, and where they lie, in order."""

    dataset: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class WindowedPlan(PackPlan):
    """A pack, and what is to be fetched before it is made."""

    windows: tuple[Window, ...] = ()


SpanOf = Callable[[int, int], Span | None]
"""Dataset and sample to the frame's place; None where it is not fetched ahead."""


def with_windows(plans: Iterator[PackPlan], span_of: SpanOf, budget: int) -> Iterator[PackPlan]:
    """The same packs in the same order.

    Args:
        budget: bytes of frames that may wait in the cache.
    """
    while group := _group(plans, span_of, budget):
        windows = _windows(group, span_of)
        for number, plan in enumerate(group):
            yield WindowedPlan(visits=plan.visits, windows=tuple(windows.get(number, ())))


def _group(plans: Iterator[PackPlan], span_of: SpanOf, budget: int) -> list[PackPlan]:
    group: list[PackPlan] = []
    seen: set[tuple[int, int]] = set()
    for plan in islice(plans, MOST_PACKS):
        group.append(plan)
        for visit in plan.visits:
            span = None if (visit.dataset, visit.sample) in seen else span_of(visit.dataset, visit.sample)
            seen.add((visit.dataset, visit.sample))
            budget -= span.size if span else 0
        if budget <= 0:
            break
    return group


def _windows(group: Sequence[PackPlan], span_of: SpanOf) -> dict[int, list[Window]]:
    """Windows by the number of the pack that needs one of their frames first."""
    first: dict[tuple[int, int], int] = {}
    for number, plan in enumerate(group):
        for visit in plan.visits:
            first.setdefault((visit.dataset, visit.sample), number)
    needed = [
        (dataset, span, number)
        for (dataset, sample), number in first.items()
        if (span := span_of(dataset, sample)) is not None
    ]
    needed.sort(key=lambda item: (item[0], item[1].shard, item[1].offset))
    found: dict[int, list[Window]] = {}
    for run in _runs(needed):
        if len(run) > 1:
            window = Window(dataset=run[0][0], spans=tuple(span for _, span, _ in run))
            found.setdefault(min(number for _, _, number in run), []).append(window)
    return found


_Needed = tuple[int, Span, int]


def _runs(needed: Sequence[_Needed]) -> Iterator[list[_Needed]]:
    """Neighbours of one tar, near enough to each other and short enough together."""
    run: list[_Needed] = []
    for item in needed:
        dataset, span, _ = item
        if run and not (
            (dataset, span.shard) == (run[-1][0], run[-1][1].shard)
            and span.offset - run[-1][1].offset - run[-1][1].size <= MOST_GAP
            and span.offset + span.size - run[0][1].offset <= WINDOW_BYTES
        ):
            yield run
            run = []
        run.append(item)
    if run:
        yield run
