"""Stage, engine and batches in; a trained engine and the final state out."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data_shards.collate import Batch, step_counts
from data_shards.quarantine import BadRecord
from trainer.bad_samples import BadSampleWatch
from trainer.checkpoint import Checkpoints
from trainer.dist import Ranks
from trainer.engine import Engine
from trainer.loggers import Logger
from trainer.metrics import MetricWindow
from trainer.optim import lr_factor
from trainer.recipe import Recipe
from trainer.sample_log import SampleLog
from trainer.stages.base import LossOut, Stage
from trainer.state import StopRequest, TrainState


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything the loop works with; see the types.

    Attributes:
        advance: position in the plan and a number of packs to the position behind them.
        num_samples: frames of all datasets, by which unusable ones are judged; 0 where it is not known.
        bad: those of them that were found unusable before the first step.
    """

    recipe: Recipe
    ranks: Ranks
    stage: Stage
    engine: Engine
    batches: Iterator[list[Batch]]
    advance: Callable[[int, int], int]
    checkpoints: Checkpoints
    logger: Logger
    stop: StopRequest
    samples: SampleLog | None = None
    num_samples: int = 0
    bad: Sequence[BadRecord] = ()


def fit(run: Run, state: TrainState) -> tuple[TrainState, bool]:
    """Train from `state` to the recipe's last step, or until a signal asks for a stop on any rank.

    Returns:
        the state reached, and whether it was a stop; a checkpoint of that state is then written.

    Raises:
        TooManyBadSamples: on all ranks, at the same step.
        SaveError: on all ranks, where a stop cannot be saved.
    """
    run.stage.train_mode()
    watch = _watch(run, state)
    window = MetricWindow(names=run.stage.metric_names())
    packs = run.recipe.batch.micro_batches * run.ranks.world_size
    began = time.monotonic() - state.seconds
    while state.step < run.recipe.steps:
        started = time.perf_counter()
        batches = next(run.batches)
        window.data_wait += time.perf_counter() - started
        own = [sum(map(run.stage.weight, batches)), sum(map(run.stage.second_weight, batches))]
        own += [float(bool(run.stop)), float(run.checkpoints.busy), *watch.counts(batches)]
        weight, second_weight, stop, saving, *counts = run.ranks.sum(own)
        if not saving:
            run.checkpoints.finish()
        if stop:
            return _stop(run, _flush(run, window, state), began), True
        watch.update(batches, counts)
        window.quarantined = watch.count
        if run.samples is not None:
            run.samples.add(state.step + 1, batches)
        _seed_step(run, state.step)
        rates = run.engine.set_lr(lr_factor(state.step, run.recipe))
        weights = {"weight": weight, "second_weight": second_weight}
        outs = train_step(run.stage, run.engine, batches, **weights, world_size=run.ranks.world_size)
        window.losses.append(_mean_loss(outs, **weights))
        _note(window, run.recipe, batches, outs)
        state = replace(state, step=state.step + 1, position=run.advance(state.position, packs))
        window.seconds += time.perf_counter() - started
        if _due(state.step, run.recipe.image_log_every) or state.step == 1:
            _show(run, state.step, batches, outs)
        state = _end_of_step(run, window, state, rates, began)
    run.checkpoints.finish()
    return state, False


def train_step(
    stage: Stage,
    engine: Engine,
    batches: Sequence[Batch],
    *,
    weight: float,
    second_weight: float = 0.0,
    world_size: int,
) -> list[LossOut]:
    """One update on the exact mean over all micro batches of all ranks.

    DeepSpeed averages gradients over ranks and accumulation steps: each sum is scaled by their number over the weight.

    Args:
        stage: gives the loss.
        engine: holds the model.
        batches: this rank's micro batches.
        weight, second_weight: of all micro batches of all ranks; 0 gives no gradient.
        world_size: number of ranks.
    """
    scale, second_scale = (world_size * len(batches) / w if w else 0.0 for w in (weight, second_weight))
    outs = []
    for batch in batches:
        out = stage.loss(engine, batch, engine.device)
        if not stage.weight(batch):
            out = _without_weight(out)
        loss = out.total * scale if out.second is None else out.total * scale + out.second * second_scale
        engine.backward(loss)
        engine.step()
        outs.append(replace(out, total=out.total.detach(), second=None if out.second is None else out.second.detach()))
    return outs


def _without_weight(out: LossOut) -> LossOut:
    """Zero, with its graph: a pack of a dummy tile runs through the model on its rank, and teaches nothing."""
    return replace(out, total=out.total * 0.0, second=None if out.second is None else out.second * 0.0, metrics={})


def _mean_loss(outs: Sequence[LossOut], *, weight: float, second_weight: float) -> torch.Tensor:
    """This rank's share of the step's loss."""
    total = torch.stack([out.total.double() for out in outs]).sum()
    loss = total / weight if weight else total * 0.0
    seconds = [out.second.double() for out in outs if out.second is not None]
    return loss + torch.stack(seconds).sum() / second_weight if seconds and second_weight else loss


def _watch(run: Run, state: TrainState) -> BadSampleWatch:
    return BadSampleWatch(
        run.ranks,
        run.recipe.run_dir,
        max_fraction=run.recipe.data.max_bad_fraction,
        seen=state.samples,
        total=run.num_samples,
        say=run.logger.say,
        counted=run.bad,
    )


def _seed_step(run: Run, step: int) -> None:
    """Random numbers of a step (DropPath) depend on seed, step and rank alone: a resumed run draws the same ones."""
    words = np.random.SeedSequence([run.recipe.seed, step, run.ranks.rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))


def _note(window: MetricWindow, recipe: Recipe, batches: Sequence[Batch], outs: Sequence[LossOut]) -> None:
    for out in outs:
        window.add_means(out.metrics)
    window.add_counts(
        step_counts(batches),
        fill_tokens=sum(batch.meta.num_tokens for batch in batches) / recipe.data.max_tokens,
        fill_tiles=sum(batch.meta.num_tiles for batch in batches) / recipe.data.max_tiles,
    )


def _end_of_step(
    run: Run, window: MetricWindow, state: TrainState, rates: dict[str, float], began: float
) -> TrainState:
    """Log and save where it is time; a checkpoint always closes a logging window, so that a resumed run logs alike."""
    last = state.step == run.recipe.steps
    save = _due(state.step, run.recipe.checkpoint_every)
    if save or last or _due(state.step, run.recipe.log_every):
        state = _flush(run, window, state, rates)
    state = replace(state, seconds=time.monotonic() - began)
    if save:
        run.checkpoints.save(run.engine, state)
    run.logger.step_done(state.step)
    return state


def _flush(run: Run, window: MetricWindow, state: TrainState, rates: dict[str, float] | None = None) -> TrainState:
    """Reduce the window over ranks and log it."""
    if not window.losses:
        return state
    num_steps = len(window.losses)
    packs = num_steps * run.recipe.batch.micro_batches * run.ranks.world_size
    means = window.reduce(run.ranks, packs=packs)
    values = means.scalars()
    values["optim/grad_norm"] = run.engine.grad_norm()
    values |= {f"lr/{name}": rate for name, rate in (rates or {}).items()}
    run.logger.scalars(state.step, values)
    return replace(state.with_losses(means.losses), samples=state.samples + means.counts["samples"])


def _stop(run: Run, state: TrainState, began: float) -> TrainState:
    state = replace(state, seconds=time.monotonic() - began)
    path = run.checkpoints.save_now(run.engine, state)
    run.logger.say(f"stopped on a signal after step {state.step}; checkpoint {path}; the same command continues")
    return state


def _show(run: Run, step: int, batches: Sequence[Batch], outs: Sequence[LossOut]) -> None:
    if not run.recipe.image_log_every:
        return
    picture = run.stage.picture(batches[0], outs[0])
    if picture is not None:
        run.logger.picture(step, picture.name, picture.image, picture.caption)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
