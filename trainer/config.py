"""A recipe file and command-line overrides in, a typed `Recipe` out, with a list of every derived value."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data_shards.remote_files import as_url
from trainer.recipe import DatasetSection, Recipe
from trainer.recipe_checks import recipe_problems
from trainer.typed_yaml import ConfigError, apply_overrides, build, read_yaml

__all__ = ["ConfigError", "Recipe", "load_recipe", "recipe_to_yaml", "warmup_steps"]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """Read, override, type and check a recipe.

    Returns:
        the recipe, and one line for each value that was derived rather than given.

    Raises:
        ConfigError: every problem found, one a line.
    """
    tree = apply_overrides(read_yaml(path), overrides)
    problems: list[str] = []
    recipe = build(Recipe, tree, "", problems)
    if recipe is not None:
        problems += recipe_problems(recipe)
    if problems:
        raise ConfigError("\n".join(f"{_origin(problem, path, overrides)}: {problem}" for problem in problems))
    return _derive(recipe)


def _origin(problem: str, path: Path, overrides: Sequence[str]) -> str:
    """Where the field that a problem begins with was set: on the command line, or in the recipe."""
    field = problem.partition(":")[0]
    for override in reversed(overrides):  # the last of those that set a field holds
        name = override.partition("=")[0]
        if field == name or field.startswith(f"{name}."):
            return f"command line, {override}"
    return str(path)


def recipe_to_yaml(recipe: Recipe) -> str:
    """The recipe with every value written out; reads back to the same recipe."""
    return yaml.safe_dump(_plain(dataclasses.asdict(recipe)), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return (as_url(value) or str(value)) if isinstance(value, Path) else value


def _derive(recipe: Recipe) -> tuple[Recipe, list[str]]:
    notes = []
    if 0 < recipe.optim.warmup < 1:
        notes.append(f"optim.warmup {recipe.optim.warmup:g} of {recipe.steps} steps = {warmup_steps(recipe)} steps")
    data = dataclasses.replace(recipe.data, datasets=_named("data", recipe.data.datasets, notes))
    held_out = _named("validation", recipe.validation.datasets, notes)
    validation = dataclasses.replace(recipe.validation, datasets=held_out)
    return dataclasses.replace(recipe, data=data, validation=validation), notes


def _named(section: str, datasets: Sequence[DatasetSection], notes: list[str]) -> tuple[DatasetSection, ...]:
    """Each dataset with a name; those that come from paths are noted."""
    named = []
    for i, dataset in enumerate(datasets):
        name = dataset.name or dataset.path.name
        if not dataset.name:
            notes.append(f"{section}.datasets.{i}.name = {name!r}, from its path")
        named.append(dataclasses.replace(dataset, name=name))
    return tuple(named)


def warmup_steps(recipe: Recipe) -> int:
    """Warm-up in steps."""
    warmup = recipe.optim.warmup
    return round(warmup * recipe.steps) if warmup < 1 else round(warmup)
