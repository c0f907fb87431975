"""A recipe and a run directory in; the directory begun, continued, or taken over from a start without a step, out.

Nothing of a directory is overwritten that a step has left, and nothing is deleted: what gives way is moved aside.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from trainer.bad_samples import QUARANTINE_FILE
from trainer.config import Recipe, recipe_to_yaml
from trainer.data import Data
from trainer.dist import Ranks
from trainer.guards import SKIPPED_FILE, SPIKES_FILE
from trainer.hashes import weights_record
from trainer.loggers import announce
from trainer.profiling import PROFILE_DIR
from trainer.run_dir import ENVIRONMENT_FILE, INPUTS_FILE, RunDir
from trainer.run_lock import locked
from trainer.sample_log import DIRECTORY as SAMPLES_DIR
from trainer.stages.base import Stage
from trainer.stages.vocabulary import CODEBOOK_FILE

OF_STEPS = ("model", "models", "summary.json", SKIPPED_FILE, SPIKES_FILE, PROFILE_DIR)
"""What is in a run directory only after steps were taken, beside checkpoints and lines of metrics."""

FOUND = (CODEBOOK_FILE, QUARANTINE_FILE, SAMPLES_DIR)
BEGUN_WITH = ("ds_config.json", ENVIRONMENT_FILE, INPUTS_FILE, "recipe.yaml")
"""These and what was `FOUND` a start leaves, though it came to no step, and the next one takes for its own."""


def is_finished(run_dir: RunDir, recipe: Recipe, world_size: int) -> bool:
    """Whether there is nothing left to do.

    Raises:
        RunDirError: steps were taken in the directory with another recipe.
    """
    if has_steps(run_dir):
        run_dir.check_recipe(recipe_to_yaml(recipe), world_size)
    summary = run_dir.summary()
    if summary is None:
        return False
    announce(
        f"{run_dir.path}: already finished, {summary['steps']} steps; nothing to do (--resume never trains it anew and "
        "moves this directory aside)"
    )
    return True


def begin(
    run_dir: RunDir, stage: Stage, data: Data, config: Mapping[str, Any], ranks: Ranks, held: ExitStack, *, anew: bool
) -> Mapping[str, Any]:
    """Make the directory, or take it over; it is `held` from now on. Called on the main rank.

    Args:
        config: of DeepSpeed, as `trainer.ds_config.resolve` returns.
        anew: move aside what is there.

    Returns:
        what stands for frozen weights and datasets, see `RunDir.check_inputs`.

    Raises:
        RunDirError: steps were taken in the directory with another recipe, or other frozen weights or data.
        LockedError: another process is at work there.
    """
    text, fits_codebook = recipe_to_yaml(data.recipe), data.recipe.distill.codebook is None
    inputs = {**weights_record(stage.bases()), **data.mixture.record()}
    if anew and run_dir.path.is_dir():
        with locked(run_dir.path, announce):
            announce(f"--resume never: {run_dir.path} moved to {run_dir.move_aside()}")
    run_dir.make()
    held.enter_context(locked(run_dir.path, announce))
    changes = [*run_dir.recipe_changes(text, ranks.world_size), *run_dir.input_changes(inputs)]
    if changes and has_steps(run_dir):
        run_dir.check_recipe(text, ranks.world_size)
        run_dir.check_inputs(inputs)
    elif changes:
        found = [name for name in FOUND if name != CODEBOOK_FILE or fits_codebook]
        aside = run_dir.move_parts_aside([*found, *BEGUN_WITH])
        lines = "\n".join(changes)
        announce(
            f"{run_dir.path}: was begun otherwise:\n{lines}\nno step was taken with that, and this start takes the "
            f"directory over; what was left there is in {aside}"
        )
    run_dir.begin(text, config, ranks.world_size, inputs)
    return inputs


def has_steps(run_dir: RunDir) -> bool:
    """Whether anything is there that a step has left: a checkpoint, whole or not, a line of metrics, a model."""
    metrics = run_dir.path / "metrics.jsonl"
    logged = metrics.is_file() and metrics.stat().st_size > 0
    return logged or any(run_dir.checkpoints.glob("*")) or any((run_dir.path / name).exists() for name in OF_STEPS)
