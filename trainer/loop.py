"""Stage, engine and batches in; a trained engine and the final state out."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data_shards.collate import Batch
from data_shards.quarantine import BadRecord
from trainer.bad_samples import BadSampleWatch
from trainer.checkpoint import Checkpoints
from trainer.dist import Ranks
from trainer.engine import Engine
from trainer.guards import explained_memory
from trainer.loggers import Logger
from trainer.monitor import Monitor
from trainer.optim import lr_factor
from trainer.recipe import Recipe
from trainer.sample_log import SampleLog
from trainer.stages.base import LossOut, Stage
from trainer.state import TrainState
from trainer.stop_check import BrokenOff, StopCheck
from trainer.validator import Validator


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
    stop: StopCheck
    samples: SampleLog | None = None
    validator: Validator | None = None
    num_samples: int = 0
    bad: Sequence[BadRecord] = ()


def fit(run: Run, state: TrainState) -> tuple[TrainState, bool]:
    """Train from `state` to the recipe's last step, or until a signal asks for a stop on any rank.

    Returns:
        the state reached, and whether it was a stop; a checkpoint of that state is then written.

    Raises:
        TooManyBadSamples, TooManySkipped: on all ranks, at the same step.
        OutOfMemory: on the rank whose memory did not hold a pack.
        SaveError: on all ranks, where a stop cannot be saved.
    """
    run.stage.train_mode()
    watch = _watch(run, state)
    packs = run.recipe.batch.micro_batches * run.ranks.world_size
    began = time.monotonic() - state.seconds
    rates: dict[str, float] = {}
    with Monitor(run.recipe, run.ranks, run.stage, run.engine, run.logger, state) as monitor:
        if state.look_due:
            state = _look_again(run, monitor, state)
        while state.step < run.recipe.steps and not state.look_due:
            monitor.begin_step(state.step + 1)
            batches = next(run.batches)
            monitor.data_arrived()
            own = [sum(map(run.stage.weight, batches)), sum(map(run.stage.second_weight, batches))]
            own += [float(bool(run.stop)), float(run.checkpoints.busy), *watch.counts(batches)]
            weight, second_weight, stop, saving, *counts = run.ranks.sum(own)
            if not saving:
                run.checkpoints.finish()
            if stop:
                return _stop(run, monitor, state, rates, began), True
            watch.update(batches, counts)
            if run.samples is not None:
                run.samples.add(state.step + 1, batches)
            _seed_step(run, state.step)
            rates = run.engine.set_lr(lr_factor(state.step, run.recipe))
            monitor.beat("forward and backward passes")
            weights = {"weight": weight, "second_weight": second_weight}
            outs = train_step(run.stage, run.engine, batches, **weights, world_size=run.ranks.world_size)
            position = run.advance(state.position, packs)
            state = replace(state, step=state.step + 1, position=position, seen=watch.seen, quarantined=watch.count)
            monitor.end_step(batches, outs, _mean_loss(outs, **weights), quarantined=watch.count)
            if _due(state.step, run.recipe.image_log_every) or state.step == 1:
                _show(run, state.step, batches, outs)
            state = _end_of_step(run, monitor, state, rates, began)
        if state.look_due:
            return _stop(run, monitor, state, rates, began), True
        monitor.beat("finishing a checkpoint")
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

    Raises:
        OutOfMemory: naming the pack.
    """
    scale, second_scale = (world_size * len(batches) / w if w else 0.0 for w in (weight, second_weight))
    outs = []
    for batch in batches:
        with explained_memory(stage.recipe.data, batch):
            out = stage.loss(engine, batch, engine.device)
            if not stage.weight(batch):
                out = _without_weight(out)
            loss = out.total * scale if out.second is None else out.total * scale + out.second * second_scale
            engine.backward(loss * (1.0 + loss.detach() * 0.0))  # a loss that is not finite gives no finite gradient
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
        seen=state.seen,
        total=run.num_samples,
        say=run.logger.say,
        counted=run.bad,
        num_known=state.quarantined,
    )


def _seed_step(run: Run, step: int) -> None:
    """Random numbers of a step (DropPath) depend on seed, step and rank alone: a resumed run draws the same ones."""
    words = np.random.SeedSequence([run.recipe.seed, step, run.ranks.rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0] >> np.uint64(1)))


def _end_of_step(run: Run, monitor: Monitor, state: TrainState, rates: dict[str, float], began: float) -> TrainState:
    """Validate, log and save where it is time; a checkpoint always closes a logging window, so that a resumed run logs
    alike."""
    last = state.step == run.recipe.steps
    save = _due(state.step, run.recipe.checkpoint_every)
    state, values, score = _look(run, monitor, state)
    if save or last or values or _due(state.step, run.recipe.log_every):
        state = monitor.flush(state, rates, values)
    state = replace(state, seconds=time.monotonic() - began)
    if save or score is not None:
        monitor.beat("saving a checkpoint")
    if save or (score is not None and run.checkpoints.is_best(state.step, score)):
        run.checkpoints.save(run.engine, state, score)
    run.logger.step_done(state.step)
    return state


def _look(run: Run, monitor: Monitor, state: TrainState) -> tuple[TrainState, dict[str, float], float | None]:
    """Where a look at the held-out data is due after this step, its values and score; where a stop breaks it off, a
    state in which it still is."""
    if run.validator is None or not run.validator.is_due(state.step):
        return replace(state, look_due=False), {}, None
    try:
        values = run.validator.look(run.engine, state.step, run.logger, monitor.beat, run.stop)
    except BrokenOff:
        return replace(state, look_due=True), {}, None
    return replace(state, look_due=False), values, run.validator.score(values)


def _look_again(run: Run, monitor: Monitor, state: TrainState) -> TrainState:
    """What a stop broke off; the step's other values were logged before. Its checkpoint is written again, with the
    score that it would have had."""
    state, values, score = _look(run, monitor, state)
    if state.look_due:
        return state
    if values:
        run.logger.scalars(state.step, values)
    monitor.beat("saving a checkpoint")
    if score is not None and not _due(state.step, run.recipe.checkpoint_every):
        score = score if run.checkpoints.is_best(state.step, score) else None
    run.checkpoints.save(run.engine, state, score, again=True)
    return state


def _stop(run: Run, monitor: Monitor, state: TrainState, rates: dict[str, float], began: float) -> TrainState:
    state = monitor.flush(state, rates)
    state = replace(state, seconds=time.monotonic() - began)
    monitor.beat("saving a checkpoint")
    path = run.checkpoints.save_now(run.engine, state)
    run.logger.say(
        f"stopped on a signal after step {state.step}; checkpoint {path}; the same command without --resume continues"
    )
    return state


def _show(run: Run, step: int, batches: Sequence[Batch], outs: Sequence[LossOut]) -> None:
    if not run.recipe.image_log_every:
        return
    picture = run.stage.picture(batches[0], outs[0])
    if picture is not None:
        run.logger.picture(step, picture.name, picture.image, picture.caption)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
