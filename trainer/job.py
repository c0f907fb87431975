"""Recipe and DeepSpeed file in, a run directory out: builds everything, trains, writes the model and its summary."""

import enum
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import dist
from trainer.adamw import choose_adamw
from trainer.bad_samples import BadSampleWatch, TooManyBadSamples
from trainer.begin import begin, is_finished
from trainer.checkpoint import Checkpoints
from trainer.config import Recipe, load_recipe, recipe_to_yaml
from trainer.data import Data, make_data
from trainer.dist import MainRankError, Ranks
from trainer.ds_config import load_ds_config, precision, resolve, zero_stage
from trainer.engine import Engine
from trainer.engine_partition import Partition
from trainer.guards import TooManySkipped
from trainer.hashes import weights_record
from trainer.loggers import announce, make_logger
from trainer.loop import Run, fit
from trainer.memory import Zero
from trainer.memory_fit import memory_report
from trainer.optim import training_table
from trainer.resume import CheckpointError, StoredCheckpoints
from trainer.run_dir import RunDir
from trainer.sample_log import SampleLog
from trainer.settle import settle_checkpointing
from trainer.stages import make_stage
from trainer.stages.base import Preparation, Stage
from trainer.state import StopRequest, TrainState
from trainer.stop_check import StopCheck
from trainer.tensor_cores import use_tensor_cores
from trainer.validator import Validator
from trainer.watchdog import Watchdog
from trainer.write_model import write_model


class ModelNotWritten(MainRankError):  # noqa: N818
    """The finished model found no room."""


class Outcome(enum.Enum):
    """How a job ended, if not with an error."""

    DONE = "done"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the command line says.

    Attributes:
        ds_config, recipe: files.
        overrides: `section.field=value` settings.
        resume: `auto`, `never`, or the path of a checkpoint.
        world_size: ranks that a dry run asks about; None for those of the launcher.
        gpu_gib: memory of a card that a dry run is to fit.
    """

    ds_config: Path
    recipe: Path
    overrides: Sequence[str]
    resume: str
    world_size: int | None = None
    gpu_gib: float | None = None


def describe(job: Job) -> str:
    """What a job would do: resolved recipe and DeepSpeed configuration, plan, what is trained, memory."""
    recipe, notes = load_recipe(job.recipe, job.overrides)
    world_size = job.world_size or dist.world_size_from_environment()
    config, chosen = _resolve(job, recipe, world_size)
    settled, layers = settle_checkpointing(recipe, config, world_size, job.gpu_gib)
    stage = make_stage(settled, getattr(torch, precision(config)), loaded=False)
    data = make_data(recipe, stage.text, None, stage.cost())
    parts = [
        recipe_to_yaml(recipe).rstrip(),
        json.dumps(config, indent=2),
        *notes,
        *chosen,
        *layers,
        *stage.notes(),
        *data.summary(world_size),
        *Validator(recipe, stage, None).notes(),
        _table(stage),
        memory_report(stage, Zero.of(config, world_size), gpu_gib=job.gpu_gib, least=data.least_limits),
    ]
    return "\n".join(parts)


def run_job(job: Job, stop: StopRequest) -> Outcome:
    """Train one stage from its beginning or a checkpoint to its end, or to a stop."""
    recipe, notes = load_recipe(job.recipe, job.overrides)
    config, chosen = _resolve(job, recipe, dist.world_size_from_environment())
    run_dir = RunDir(path=recipe.run_dir)
    with ExitStack() as held:
        ranks = dist.init()
        if job.resume != "never" and ranks.on_main(lambda: is_finished(run_dir, recipe, ranks.world_size)):
            return Outcome.DONE
        settled, layers = settle_checkpointing(recipe, config, ranks.world_size)
        stage = make_stage(settled, getattr(torch, precision(config)), loaded=False)
        data = make_data(recipe, stage.text, ranks, stage.cost())
        validator = Validator(recipe, stage, ranks)
        plan = [*data.summary(ranks.world_size), *validator.notes()]
        cores = use_tensor_cores(recipe, config)
        announce("\n".join([*notes, *chosen, *cores, *layers, *stage.notes(), *plan, _table(stage)]))
        anew = job.resume == "never"
        inputs = ranks.on_main(lambda: begin(run_dir, stage, data, config, ranks, held, anew=anew))
        _judge_counted(data, run_dir, ranks)
        with _watched(recipe, ranks, "start") as watchdog:
            watchdog.beat(0, "loading the model")
            groups = stage.parameter_groups()
            stage.load(Partition(config, ranks) if zero_stage(config) == 3 else None)
            watchdog.beat(0, "making the engine")
            engine = Engine(stage.model, groups, config)
            watchdog.beat(0, "preparing the stage")
            stage.prepare(_preparation(ranks, engine, run_dir, data, inputs))
            inputs = {**inputs, **ranks.on_main(lambda: weights_record(stage.prepared()))}
            watchdog.beat(0, "reading a checkpoint")
            stored = StoredCheckpoints(root=run_dir.checkpoints, ranks=ranks, say=announce, inputs=inputs)
            state, newest = _resume(job, stored, engine, recipe.steps)
        parts = _Parts(
            recipe=recipe,
            run_dir=run_dir,
            ranks=ranks,
            stage=stage,
            engine=engine,
            data=data,
            validator=validator,
            stop=stop,
            inputs=inputs,
            newest=newest,
        )
        return _train(parts, state)


def _watched(recipe: Recipe, ranks: Ranks, part: str) -> Watchdog:
    """For what comes before and after the loop, which watches itself."""
    return Watchdog(ranks, recipe.run_dir, hang_after=recipe.hang_after, say=announce, part=part)


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a job is built of."""

    recipe: Recipe
    run_dir: RunDir
    ranks: Ranks
    stage: Stage
    engine: Engine
    data: Data
    validator: Validator
    stop: StopRequest
    inputs: Mapping[str, Any]
    newest: Path | None


def _train(parts: _Parts, state: TrainState) -> Outcome:
    recipe, ranks, run_dir = parts.recipe, parts.ranks, parts.run_dir
    logger = make_logger(ranks, run_dir.path, title=recipe.stage, steps=recipe.steps, done=state.step)
    checkpoints = Checkpoints(
        root=run_dir.checkpoints,
        ranks=ranks,
        keep=recipe.keep,
        recipe=recipe_to_yaml(recipe),
        say=logger.say,
        inputs=parts.inputs,
        newest=parts.newest,
    )
    samples = SampleLog(run_dir.path, ranks, state.step) if recipe.sample_log else None
    try:
        run = Run(
            recipe=recipe,
            ranks=ranks,
            stage=parts.stage,
            engine=parts.engine,
            batches=iter(parts.data.loader(ranks, state.position)),
            advance=parts.data.stream.advance,
            checkpoints=checkpoints,
            logger=logger,
            stop=StopCheck(parts.stop, ranks),
            samples=samples,
            validator=parts.validator,
            num_samples=parts.data.num_samples,
            bad=parts.data.mixture.bad,
        )
        try:
            state, stopped = fit(run, state)
        except (TooManyBadSamples, TooManySkipped):
            checkpoints.close()  # raised on all ranks at the same step: none waits for one that is gone
            raise
        checkpoints.close()
    finally:
        logger.close()
        if samples is not None:
            samples.close()
    if stopped:
        return Outcome.STOPPED
    _write_model(parts)
    summary = ranks.on_main(lambda: run_dir.write_summary(recipe.stage, state))
    announce(
        f"{recipe.stage}: {summary['steps']} steps in {summary['seconds']:.0f} s, loss {summary['loss_first']:.4f} -> "
        f"{summary['loss_last']:.4f} (means of ten steps); model in {run_dir.model}"
    )
    return Outcome.DONE


def _write_model(parts: _Parts) -> None:
    directory = parts.run_dir.model
    try:
        with _watched(parts.recipe, parts.ranks, "end") as watchdog:
            watchdog.beat(parts.recipe.steps, "writing the model")
            write_model(parts.stage.exported(), parts.ranks, directory, parts.stage.save_extras)
    except OSError as error:
        raise ModelNotWritten(
            f"{directory}: the model could not be written: {error}; make room there and start the run again: it goes "
            "on from its last checkpoint"
        ) from error


def _resolve(job: Job, recipe: Recipe, world_size: int) -> tuple[dict[str, Any], list[str]]:
    """The configuration, and what was chosen in it for this machine."""
    given = load_ds_config(job.ds_config)
    config = resolve(given, recipe, world_size=world_size, config_path=job.ds_config, recipe_path=job.recipe)
    chosen, note = choose_adamw(config, recipe.optim.kernel, dist.compute_device())
    return chosen, [note] if note else []


def _table(stage: Stage) -> str:
    return training_table(list(stage.model.named_parameters()), stage.modules, stage.parameter_groups())


def _judge_counted(data: Data, run_dir: RunDir, ranks: Ranks) -> None:
    """Refuse data of which too much fits no pack, before any weights are read."""
    BadSampleWatch(
        ranks,
        run_dir.path,
        max_fraction=data.recipe.data.max_bad_fraction,
        seen=0.0,
        total=data.num_samples,
        say=announce,
        counted=data.mixture.bad,
    )


def _preparation(ranks: Ranks, engine: Engine, run_dir: RunDir, data: Data, inputs: Mapping[str, Any]) -> Preparation:
    return Preparation(
        ranks=ranks, device=engine.device, run_dir=run_dir.path, first_batches=data.first_batches, inputs=inputs
    )


def _resume(job: Job, stored: StoredCheckpoints, engine: Engine, steps: int) -> tuple[TrainState, Path | None]:
    if job.resume in ("auto", "never"):
        path = stored.find()
    else:
        path = Path(job.resume)
        damage = stored.damage(path)
        if damage:
            raise CheckpointError(f"--resume {path}: not a whole checkpoint: {damage[0]}")
    if path is None:
        return TrainState(), None
    state = stored.load(path, engine)
    if state.step > steps:
        raise CheckpointError(
            f"--resume {path}: got the state after step {state.step}, expected at most steps = {steps}"
        )
    announce(f"continuing after step {state.step}, from {path}")
    return state, path
