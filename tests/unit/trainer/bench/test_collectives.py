"""Whatever a process group starts, and whatever waits for it, is timed."""

from contextlib import contextmanager, suppress

import pytest
import torch
from torch.distributed import ProcessGroup, Work

from trainer.bench.collectives import COMMUNICATION, timed_collectives


class _Noted:
    """Stands for a timeline: what was interrupted, and whether it came back."""

    def __init__(self):
        self.parts = []

    @contextmanager
    def interrupted(self, part):
        self.parts.append(part)
        yield


def starting():
    """Names of the methods that give work to be waited for, as torch itself declares them, and of the one that waits
    within."""
    gives_work = [name for name, method in vars(ProcessGroup).items() if "-> c10d::Work" in (method.__doc__ or "")]
    return [*gives_work, "monitored_barrier"]


def calls_timed(owner, name):
    """How often a call is timed that fails for want of its arguments."""
    noted = _Noted()
    before = vars(owner)[name]
    with timed_collectives(noted), suppress(Exception):
        getattr(owner, name)()
    assert vars(owner)[name] is before
    with suppress(Exception):
        getattr(owner, name)()
    return noted.parts


def test_torch_declares_the_collectives_that_are_looked_for():
    assert {"allreduce", "broadcast", "barrier", "all_to_all_single", "_allgather_base", "send"} <= set(starting())
    assert len(starting()) > 20


@pytest.mark.parametrize("name", starting())
def test_every_call_of_a_process_group_is_timed(name):
    assert calls_timed(ProcessGroup, name) == [COMMUNICATION]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Work, "wait"),
        (torch.cuda.Stream, "wait_stream"),
        (torch.cuda.Stream, "wait_event"),
        (torch.cuda.Stream, "synchronize"),
        (torch.cuda.Event, "synchronize"),
        (torch.cuda, "synchronize"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_every_way_to_wait_is_timed(owner, name):
    assert calls_timed(owner, name)[:1] == [COMMUNICATION]


@pytest.mark.parametrize("name", ["rank", "size", "name"])
def test_what_sends_nothing_is_not_timed(name):
    assert calls_timed(ProcessGroup, name) == []
