"""Modules and an engine in; the time of each part of a step, on the device's own clock, out.

A mark ends the part that went before it. On a GPU marks are events of the stream that computes, read when all steps are
done: the host waits for nothing in between. Elsewhere they are readings of the host's clock.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainer.engine import Engine


class Timeline:
    """Marks of all steps; `steps` holds one list of (part, mark) a step, the first of them its begin.

    Attributes:
        beside: of each step the pairs of marks of what ran on other streams than the one that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.current_stream(device) if self._cuda else None
        self.steps: list[list[tuple[str | None, Any]]] = []
        self.beside: list[list[tuple[Any, Any]]] = []
        self._open = self._inside = False

    def clear(self) -> None:
        """Forget all steps."""
        self.steps.clear()
        self.beside.clear()
        self._open = False

    def begin(self) -> None:
        """A step begins."""
        self.steps.append([])
        self.beside.append([])
        self._open = True
        self.mark("begin")

    def end(self) -> None:
        """The step ended with the last part; nothing is marked before the next one begins."""
        self._open = False

    def mark(self, part: str | None) -> None:
        """The part ends here; outside a step nothing is marked.

        Args:
            part: None where it is interrupted: what lies before belongs to the next part that is named at its end.
        """
        if self._open:
            self.steps[-1].append((part, self._now()))

    @contextmanager
    def interrupted(self, part: str) -> Iterator[None]:
        """What runs in here is taken out of the part around it, and counts as `part`; on another stream than the one
        that computes it is noted beside the step. An interruption within another one belongs to that."""
        if self._inside or not self._open:
            yield
            return
        self._inside = True
        begin, computing = self._now(), self._is_computing()
        if computing:
            self.steps[-1].append((None, begin))
        try:
            yield
        finally:
            self._inside = False
        if computing:
            self.mark(part)
        else:
            self.beside[-1].append((begin, self._now()))

    def seconds(self) -> list[dict[str, float]]:
        """Of each step the seconds of its parts, which add up to the whole under `step`."""
        if self._cuda:
            torch.cuda.synchronize()
        return [self._of(marks) for marks in self.steps]

    def seconds_beside(self) -> list[float]:
        """Of each step the seconds that ran beside it on other streams."""
        if self._cuda:
            torch.cuda.synchronize()
        return [sum(self._between(begin, end) for begin, end in pairs) for pairs in self.beside]

    def _of(self, marks: Sequence[tuple[str | None, Any]]) -> dict[str, float]:
        parts: dict[str, float] = {}
        held = 0.0
        interrupted = False
        for (_, before), (part, after) in zip(marks, marks[1:], strict=False):
            span = self._between(before, after)
            if part is None:
                held, interrupted = held + span, True
            elif interrupted:
                parts[part] = parts.get(part, 0.0) + span
                interrupted = False
            else:
                parts[part] = parts.get(part, 0.0) + span + held
                held = 0.0
        parts["step"] = self._between(marks[0][1], marks[-1][1])
        return parts

    def _is_computing(self) -> bool:
        return self._stream is None or torch.cuda.current_stream(self._stream.device) == self._stream

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, before: Any, after: Any) -> float:
        return float(before.elapsed_time(after)) / 1e3 if self._cuda else float(after - before)


class TimedEngine(Engine):
    """An engine that marks the ends of loss, backward pass and update."""

    timeline: Timeline
    last_backward: str

    def backward(self, loss: torch.Tensor) -> None:
        """See `Engine`; what is behind the language model, or the tower, is the loss."""
        self.timeline.mark("loss forward")
        super().backward(loss)
        self.timeline.mark(self.last_backward)

    def step(self) -> None:
        """See `Engine`; the update."""
        super().step()
        self.timeline.mark("optimiser")


@contextmanager
def watched(timeline: Timeline, name: str, first: nn.Module, last: nn.Module, before: str) -> Iterator[None]:
    """Mark the passes from module `first` to `last`: `name forward`, and when the gradient of the output is
    there the end of `before`, the part of the backward pass that goes before theirs."""

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        timeline.mark("between")

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        timeline.mark(f"{name} forward")
        states = output if isinstance(output, torch.Tensor) else output.last_hidden_state
        if states.requires_grad:
            states.register_hook(lambda gradient: timeline.mark(before))

    handles = [first.register_forward_pre_hook(enter, with_kwargs=True), last.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
