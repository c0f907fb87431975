"""What a run remembers besides weights: where it is, what it has seen, and whether it was asked to stop."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil

WINDOW = 10
"""`loss_first` and `loss_last` of a summary are means over this many steps."""

HISTORY = 100
"""Losses that a new one is compared with, to tell whether it jumped."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Progress of a run; saved in every checkpoint.

    Attributes:
        step: optimiser steps done.
        position: place in the plan behind the packs consumed by all ranks together.
        seconds: time spent in the loop, over all starts.
        samples: frames learnt from.
        seen: frames read, those left out included.
        quarantined: frames left out so far; None in checkpoints that did not keep it.
        look_due: a stop broke off the look at held-out data after this step.
        first, last: losses of the first `WINDOW` and of the newest `HISTORY` steps.
    """

    step: int = 0
    position: int = 0
    seconds: float = 0.0
    samples: float = 0.0
    seen: float = 0.0
    quarantined: int | None = 0
    look_due: bool = False
    first: tuple[float, ...] = ()
    last: tuple[float, ...] = ()

    def with_losses(self, losses: Sequence[float]) -> "TrainState":
        """The state after further losses were read."""
        first = (*self.first, *losses)[:WINDOW]
        return replace(self, first=first, last=(*self.last, *losses)[-HISTORY:])

    def to_json(self) -> dict[str, Any]:
        """Plain values; floats survive JSON exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "TrainState":
        """The inverse of `to_json`; what only former versions kept is left out."""
        known = {name: value for name, value in record.items() if name in cls.__dataclass_fields__}
        lists = {"first": tuple(record["first"]), "last": tuple(record["last"])}
        return cls(**{"seen": record["samples"], "quarantined": None, **known, **lists})


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Set by a signal, or by the end of the command that started the ranks; read once a step."""

    def __init__(self, command: psutil.Process | None = None) -> None:
        self.signal_name = ""
        self._command = command

    def __bool__(self) -> bool:
        return bool(self.reason)

    @property
    def reason(self) -> str:
        """Why to stop; empty for no reason."""
        if self.signal_name:
            return f"on {self.signal_name}"
        if self._command is not None and not self._command.is_running():
            return "since the deepspeed command that started it is gone"
        return ""

    def set(self, number: int, frame: object = None) -> None:
        """The signal handler: remember, and let the step finish."""
        self.signal_name = signal.Signals(number).name


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within this context `STOP_SIGNALS`, and the end of the `deepspeed` command, ask for a stop after the step."""
    request = StopRequest(deepspeed_command())
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in former:
        signal.signal(number, request.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # those that the start held back arrive now
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def deepspeed_command() -> psutil.Process | None:
    """The `deepspeed` command above this rank, if one started it.

    It passes on no signal that is sent to it alone: its launcher and the ranks would train on without it.
    """
    try:
        launcher = psutil.Process().parent()
        if launcher is None or "deepspeed.launcher.launch" not in launcher.cmdline():
            return None
        return launcher.parent()
    except psutil.AccessDenied:  # a parent of another user, such as SLURM's, where /proc hides those: not the launcher
        return None
