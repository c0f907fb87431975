"""A step of a pipeline, with values and points, in; the job of it out."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slurm.batch_job import BatchJob
from slurm.points import Point, fill
from slurm.recipe_check import recipe_facts
from slurm.resources import Resources
from slurm.snapshot import SNAPSHOT
from slurm.spec import Work
from slurm.steps import Step
from slurm.submit import DS_CONFIG_COPY, RECIPE_COPY, job_spec, training_command
from slurm.typed import SlurmError


@dataclass(frozen=True, kw_only=True)
class Fills:
    """What a pipeline's steps fill in.

    Attributes:
        values: by name, resolved.
        points: of the pipeline.
        directory: where its commands run.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()
    directory: Path


@dataclass(frozen=True, kw_only=True)
class _Element:
    """One element of a step: its name, what it fills in, and what reports show of it."""

    name: str
    values: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)


def step_job(root: Path, index: int, step: Step, asked: Resources, fills: Fills) -> BatchJob:
    """The job of a step.

    Raises:
        SlurmError: a {name} without a value, or points that would do the same or leave it in the same place.
    """
    folder, elements = root / f"{index:02d}-{step.name}", _elements(step, fills)
    files: Mapping[str, Path] = {}
    if step.recipe is not None and step.ds_config is not None:
        recipe, ds_config = (Path(fill(text, fills.values)) for text in (step.recipe, step.ds_config))
        files = {RECIPE_COPY: recipe, DS_CONFIG_COPY: ds_config}
        works = tuple(_training(step, recipe, folder, root / SNAPSHOT, fills.directory, one) for one in elements)
        _check_run_dirs(works)
    else:
        works = tuple(_command(step, fills.directory, one) for one in elements)
        _check_commands(works)
    return BatchJob(
        folder=folder,
        spec=job_spec(step.name, fills.directory, works, asked, tasks_per_node=None if files else 1),
        asked=asked,
        snapshot=root / SNAPSHOT,
        files=files,
        throttle=step.throttle,
    )


def _elements(step: Step, fills: Fills) -> list[_Element]:
    """The points of a step, its parts, or itself."""
    if step.points:
        return [_point_element(point, fills.values) for point in fills.points]
    return [
        _Element(
            name=f"part {part}" if step.array > 1 else step.name,
            values={**fills.values, "part": str(part), "parts": str(step.array)},
        )
        for part in range(step.array)
    ]


def _point_element(point: Point, values: Mapping[str, str]) -> _Element:
    own = {name: fill(text, values) for name, text in point.values.items()}
    return _Element(name=point.name, labels=point.labels, values={**values, **own, "point": point.name})


def _training(step: Step, recipe: Path, folder: Path, code: Path, directory: Path, element: _Element) -> Work:
    overrides = [fill(text, element.values) for text in step.overrides]
    facts = recipe_facts(recipe, overrides, directory)
    command = training_command(folder, code, overrides)
    return Work(name=element.name, command=command, run_dir=facts.run_dir, steps=facts.steps, values=element.labels)


def _command(step: Step, directory: Path, element: _Element) -> Work:
    return Work(
        name=element.name,
        command=tuple(fill(word, element.values) for word in shlex.split(step.command or "")),
        progress=directory / fill(step.progress, element.values) if step.progress else None,
        results=directory / fill(step.results, element.values) if step.results else None,
        values=element.labels,
    )


def _check_run_dirs(works: Sequence[Work]) -> None:
    counts = Counter(work.run_dir for work in works)
    twice = [run_dir for run_dir, count in counts.items() if count > 1]
    if twice:
        raise SlurmError(f"overrides: {counts[twice[0]]} points have the run_dir {twice[0]}; put {{point}} into it")


def _check_commands(works: Sequence[Work]) -> None:
    if len(works) > 1 and len({work.command for work in works}) == 1:
        raise SlurmError(
            f"command: is the same for all {len(works)} points; put {{point}} or a name of an axis into it"
        )
    counts = Counter(work.results for work in works if work.results is not None)
    twice = [results for results, count in counts.items() if count > 1]
    if twice:
        raise SlurmError(f"results: {counts[twice[0]]} points have the file {twice[0]}; put {{point}} into it")
