"""Modules and an engine in; the time of each part of a step, on the device's own clock, out.

A mark ends the part that went before it. On a GPU marks are events of the stream, read when all steps are done: the
host waits for nothing in between. Elsewhere they are readings of the host's clock.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainer.engine import Engine


class Timeline:
    """Marks of all steps; `steps` holds one list of (part, mark) a step, the first of them its begin."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.steps: list[list[tuple[str, Any]]] = []

    def begin(self) -> None:
        """A step begins."""
        self.steps.append([])
        self.mark("begin")

    def mark(self, part: str) -> None:
        """The part ends here; without a step nothing is marked."""
        if not self.steps:
            return
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.steps[-1].append((part, event))
        else:
            self.steps[-1].append((part, time.perf_counter()))

    def seconds(self) -> list[dict[str, float]]:
        """Of each step the seconds of its parts, and of the whole under `step`."""
        if self._cuda:
            torch.cuda.synchronize()
        return [self._of(marks) for marks in self.steps]

    def _of(self, marks: Sequence[tuple[str, Any]]) -> dict[str, float]:
        parts: dict[str, float] = {}
        for (_, before), (part, after) in zip(marks, marks[1:], strict=False):
            parts[part] = parts.get(part, 0.0) + self._between(before, after)
        parts["step"] = self._between(marks[0][1], marks[-1][1])
        return parts

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
        """See `Engine`; the update, and what is left of the communication of gradients."""
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
