"""A timeline in; the time that computing stands still for other ranks, as a part of its own in every step, out.

Every collective of torch goes through a process group, whoever calls it. Its call and the wait for it are timed: on a
GPU by events of the stream that computes, so that what runs beside the computing does not count, elsewhere by the
clock. DeepSpeed runs collectives on streams of its own as well; then what counts is that the stream that computes, or
the host, waits for those.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.distributed import ProcessGroup, Work

from trainer.bench.timeline import Timeline

COMMUNICATION = "communication"

CALLS = (
    "allreduce",
    "allreduce_coalesced",
    "all_gather_single",
    "all_gather_single_coalesced",
    "allgather",
    "allgather_coalesced",
    "allgather_into_tensor_coalesced",
    "_allgather_base",
    "all_to_all_single",
    "alltoall",
    "alltoall_base",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_single_coalesced",
    "reduce_scatter_tensor_coalesced",
    "_reduce_scatter_base",
    "scatter",
    "send",
    "recv",
    "recv_anysource",
    "barrier",
    "monitored_barrier",
    "_end_coalescing",
)
"""Methods of a process group that start a collective, or send and receive; those that an older torch lacks are passed
over."""


WAITS: tuple[tuple[Any, str], ...] = (
    (Work, "wait"),
    (torch.cuda.Stream, "wait_stream"),
    (torch.cuda.Stream, "wait_event"),
    (torch.cuda.Stream, "synchronize"),
    (torch.cuda.Event, "synchronize"),
    (torch.cuda, "synchronize"),
)
"""What waits for collectives."""


@contextmanager
def timed_collectives(timeline: Timeline) -> Iterator[None]:
    """While this is open, collectives are marked in the timeline."""
    with ExitStack() as stack:
        for name in CALLS:
            if name in vars(ProcessGroup):
                stack.enter_context(_timed(ProcessGroup, name, timeline))
        for owner, name in WAITS:
            stack.enter_context(_timed(owner, name, timeline))
        yield


@contextmanager
def _timed(owner: Any, name: str, timeline: Timeline) -> Iterator[None]:
    former, plain = vars(owner)[name], getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        with timeline.interrupted(COMMUNICATION):
            return plain(*args, **kwargs)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, former)
