"""Steps of the loop in; metrics of each window, guards against bad steps, signs of life and profiles out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType

import psutil
import torch

from data_shards.collate import Batch, step_counts
from trainer.dist import Ranks
from trainer.engine import Engine
from trainer.guards import StepGuard
from trainer.loggers import Logger, warn
from trainer.metrics import MetricWindow
from trainer.profiling import StepProfile
from trainer.recipe import Recipe
from trainer.stages.base import LossOut, Stage
from trainer.state import TrainState
from trainer.stragglers import Stragglers
from trainer.utilisation import TrainFlops, peak_flops
from trainer.watchdog import Watchdog


class Monitor:
    """Everything that looks at the loop; a context manager around it. Called on all ranks alike."""

    def __init__(
        self, recipe: Recipe, ranks: Ranks, stage: Stage, engine: Engine, logger: Logger, state: TrainState
    ) -> None:
        """Go on from `state`."""
        self._recipe, self._ranks, self._stage, self._engine, self._logger = recipe, ranks, stage, engine, logger
        self._step = state.step
        modules = tuple(dict.fromkeys(stage.modules.values()))
        self._window = MetricWindow(names=stage.metric_names(), modules=modules)
        self._guard = StepGuard(ranks, recipe.run_dir, max_skipped=recipe.max_skipped, state=state, say=logger.say)
        self._stragglers = Stragglers(logger.say)
        self._watchdog = Watchdog(ranks, recipe.run_dir, hang_after=recipe.hang_after, say=logger.say)
        self._profile = StepProfile(recipe.profile, recipe.run_dir, ranks.rank, warn)
        self._peak = peak_flops(_device_name(engine.device), recipe.device_peak_tflops)
        self._waited = 0.0
        self._started = time.perf_counter()
        for line in self._announcement():
            logger.say(line)

    def __enter__(self) -> "Monitor":
        self._watchdog.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._profile.__exit__(kind, error, trace)
        self._watchdog.__exit__(kind, error, trace)

    def beat(self, doing: str) -> None:
        """A sign of life: what comes now, in words."""
        self._watchdog.beat(self._step, doing)

    def begin_step(self, step: int) -> None:
        """Before the data of a step, counted from 1, are asked for."""
        self._step = step
        self.beat("waiting for data")
        self._watchdog.waited()
        self._profile.begin(step)
        self._started = time.perf_counter()

    def data_arrived(self) -> None:
        """The step's batches are here."""
        self._window.data_wait += time.perf_counter() - self._started
        self.beat("meeting the other ranks")

    def end_step(
        self, batches: Sequence[Batch], outs: Sequence[LossOut], loss: torch.Tensor, *, quarantined: int
    ) -> None:
        """After the update, or after the engine has skipped it.

        Args:
            batches, outs: micro batches of this rank.
            loss: scalar on the device, this rank's share of the step's mean.
            quarantined: samples left out since the run began.

        Raises:
            TooManySkipped: see `StepGuard`.
        """
        window = self._window
        window.quarantined = quarantined
        if self._engine.skipped:
            totals = [out.total if out.second is None else out.total + out.second for out in outs]
            self._guard.skipped(self._step, batches, totals)
            window.skipped = self._guard.count
        else:
            self._guard.applied(self._step, batches)
            window.add_loss(self._step, loss)
            for out in outs:
                window.add_means(out.metrics)
        limits = self._recipe.data
        window.add_counts(
            step_counts(batches),
            sum((out.flops for out in outs), TrainFlops()),
            fill_tokens=sum(batch.meta.num_tokens for batch in batches) / limits.max_tokens,
            fill_tiles=sum(batch.meta.num_tiles for batch in batches) / limits.max_tiles,
        )
        trace = self._profile.end(self._step)
        if trace is not None:
            self._logger.say(f"profile of {self._recipe.profile.steps} steps: {trace.parent}")
        window.seconds += time.perf_counter() - self._started
        self._waited += self._watchdog.waited()

    def flush(
        self, state: TrainState, rates: Mapping[str, float], others: Mapping[str, float] | None = None
    ) -> TrainState:
        """Reduce the window over ranks and log it; the state with the losses and samples of the window.

        Args:
            rates: learning rates by group.
            others: values to be logged beside it.
        """
        if not self._window.flops:
            return state
        self.beat("logging")
        packs = len(self._window.flops) * self._recipe.batch.micro_batches * self._ranks.world_size
        means = self._window.reduce(
            self._ranks,
            packs=packs,
            squares=self._engine.grad_squares(),
            waited=self._waited,
            memory=_memory_gib(self._engine.device),
        )
        self._waited = 0.0
        values = means.scalars(self._peak)
        whole = sum(norm**2 for norm in means.grad_norms.values()) ** 0.5
        values["optim/grad_norm"] = self._engine.grad_norm() or whole
        values |= {f"lr/{name}": rate for name, rate in rates.items()}
        self._logger.scalars(state.step, values | dict(others or {}))
        self._guard.read_losses(dict(zip(means.steps, means.losses, strict=True)))
        self._stragglers.update(means.own_work)
        return replace(state.with_losses(means.losses), samples=state.samples + means.counts["samples"])

    def _announcement(self) -> list[str]:
        recipe, name = self._recipe, _device_name(self._engine.device)
        lines = []
        if self._peak:
            source = "the recipe" if recipe.device_peak_tflops else "its data sheet, bfloat16"
            lines.append(f"utilisation: of {self._peak / 1e12:g} TFLOP/s of {name} ({source})")
        if recipe.hang_after:
            lines.append(f"hang_after: stacks of all ranks are written where nothing moves for {recipe.hang_after:g} s")
        return lines


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"


def _memory_gib(device: torch.device) -> float:
    """Most memory of the device that tensors took so far; without a device, what the process takes now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30
