"""A recipe and its overrides in, what the cluster code needs of it out, and the trainer's verdict where torch is."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from slurm.typed import SlurmError, read_yaml, yaml_problem

DRY_RUN_TIMEOUT_S = 900
REFUSED = 2


@dataclass(frozen=True, kw_only=True)
class RecipeFacts:
    """What is read of a recipe without the trainer.

    Attributes:
        run_dir: absolute.
        steps: of the run; None where the recipe does not say.
        stage: distill, align, finetune, ...
    """

    run_dir: Path
    steps: int | None
    stage: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the trainer is asked about.

    Attributes:
        name: for messages.
        recipe, ds_config, overrides: of it.
        world_size: ranks.
    """

    name: str
    recipe: Path
    ds_config: Path
    overrides: Sequence[str]
    world_size: int


def recipe_facts(recipe: Path, overrides: Sequence[str], directory: Path) -> RecipeFacts:
    """Run directory, steps and stage of a recipe with its overrides.

    Args:
        recipe: the file.
        overrides: `section.field=value`; only plain fields are looked at.
        directory: to which a relative run directory belongs.

    Raises:
        SlurmError: no such file, an override of another form or whose value is not YAML, or no run_dir.
    """
    tree = read_yaml(recipe, "recipe")
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not all(name.split(".")):
            raise SlurmError(f"command line: got {override!r}, expected section.field=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SlurmError(f"command line: {override!r}: the value is not YAML: {yaml_problem(error)}") from error
        if "." not in name:
            tree[name] = value
    if not isinstance(tree.get("run_dir"), str):
        raise SlurmError(f"{recipe}: run_dir: got {tree.get('run_dir')!r}, expected a path")
    steps = tree.get("steps")
    return RecipeFacts(
        run_dir=(directory / tree["run_dir"]).absolute(),
        steps=steps if isinstance(steps, int) else None,
        stage=str(tree.get("stage", "run")),
    )


def validate(
    trainer: Path, recipe: Path, ds_config: Path, overrides: Sequence[str], *, num_ranks: int, directory: Path
) -> str:
    """Let the trainer resolve and plan a run without starting it.

    Args:
        trainer: root of the code that will run.
        num_ranks: of the job.
        directory: in which the job will run.

    Returns:
        a note for the user: what was planned, or that there is no torch here to ask with.

    Raises:
        SlurmError: the trainer refuses it, or a step needs more packs than the data has.
    """
    if importlib.util.find_spec("torch") is None:
        return "the recipe was not checked: no torch in this Python; the job itself will"
    command = [sys.executable, str(trainer / "trainer" / "run.py"), "--dry-run", "--ds_config", str(ds_config)]
    environment = {**os.environ, "WORLD_SIZE": str(num_ranks)}
    environment.pop("RANK", None)
    try:
        done = subprocess.run(
            [*command, "--recipe", str(recipe), *overrides],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DRY_RUN_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{recipe}: the trainer's --dry-run gave no answer within {DRY_RUN_TIMEOUT_S} s") from error
    if done.returncode != 0:
        said = done.stderr.partition("error: ")[2].strip() or done.stderr.strip()[-2000:]
        raise SlurmError(f"the trainer refuses this recipe:\n{said}")
    return _check_plan(done.stdout, num_ranks)


def check_settings(code: Path, runs: Sequence[Run], directory: Path) -> str:
    """Let the trainer read recipes and DeepSpeed files of runs whose data and models need not be there yet.

    Args:
        code: root of the code that will run.
        directory: in which the runs will run.

    Returns:
        a note for the user.

    Raises:
        SlurmError: the trainer refuses some.
    """
    if importlib.util.find_spec("torch") is None:
        return "the recipes were not checked: no torch in this Python; the jobs themselves will"
    environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "trainer.check"],
        input=json.dumps([dataclasses.asdict(run) for run in runs], default=str),
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == REFUSED:
        raise SlurmError(done.stdout.strip())
    if done.returncode != 0:
        return f"the recipes were not checked: {done.stderr.strip()[-500:]}"
    return f"the settings of {len(runs)} runs were checked"


def _check_plan(text: str, num_ranks: int) -> str:
    """Refuse more ranks than an epoch has packs: they would see the same data several times in one step."""
    match = re.search(
        r"^plan: (\d+) packs an epoch; \d+ steps x \d+ ranks x (\d+) micro batches.*$", text, re.MULTILINE
    )
    if match is None:
        return "the recipe was checked"
    epoch, micro_batches = int(match[1]), int(match[2])
    if num_ranks * micro_batches > epoch:
        raise SlurmError(
            f"--nodes, --gpus-per-node: got {num_ranks} ranks x {micro_batches} micro batches = "
            f"{num_ranks * micro_batches} packs a step, but the data has {epoch} packs an epoch; "
            f"give at most {max(1, epoch // micro_batches)} GPUs, or fewer batch.micro_batches"
        )
    return match[0]
