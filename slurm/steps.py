"""What a pipeline file may say: named values, points, and steps, each a training run or a command line."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from slurm.points import Axis, check_axes
from slurm.resources import Resources
from slurm.spec import check_name
from slurm.typed import SlurmError

_OF_A_SHELL = ("|", "||", "&", "&&", ";", ">", ">>", "<", "2>&1")
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]|^~/|=~/")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a pipeline; texts may hold `{name}` of a value, and `{point}` and the point's names with `points`.

    Attributes:
        name: of it; unique.
        recipe, ds_config, overrides: of a training run.
        command: any other command line; `python` is the job's Python, `{part}` and `{parts}` are filled in.
        array: number of parts; each is an element that is restarted for itself.
        points: run once for each point; a point goes on as soon as its own step before is done.
        throttle: parts or points that run at the same time; None for all.
        progress: directory in which a growing number of files shows that a command gets on.
        results: JSON file that a command leaves, whose numbers reports can show as `STEP.NAME`.
        after: names of the steps it waits for; the step before it where None.
        resources: over those of the pipeline.
    """

    name: str
    recipe: str | None = None
    ds_config: str | None = None
    overrides: tuple[str, ...] = ()
    command: str | None = None
    array: int = 1
    points: bool = False
    throttle: int | None = None
    progress: str | None = None
    results: str | None = None
    after: tuple[str, ...] | None = None
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        problems = []
        if (self.recipe is None) == (self.command is None):
            problems.append("recipe, command: give one of the two")
        if self.recipe is not None and self.ds_config is None:
            problems.append("ds_config: missing, a recipe needs it")
        if self.recipe is not None and self.array != 1:
            problems.append(
                "array: is for commands; give the recipe `points`, or sweep it with `python -m slurm sweep`"
            )
        if self.command is not None and (self.overrides or self.ds_config is not None):
            problems.append("overrides, ds_config: are for recipes; put them into the command")
        if self.results is not None and not (self.command is not None and self.points):
            problems.append("results: are for commands with `points`; a recipe's metrics are known anyway")
        if self.array < 1 or (self.throttle is not None and self.throttle < 1):
            problems.append("array, throttle: expected 1 or more")
        if self.array > 1 and self.points:
            problems.append("array, points: give one of the two")
        problems += _command_problems(self.command)
        problems += [
            f"overrides: got {text!r}, but no shell reads it; give the path as a value: `pipeline FILE root=$HOME/x`"
            for text in self.overrides
            if _VARIABLE.search(text)
        ]
        if self.array > 1 and "{part}" not in (self.command or ""):
            problems.append("command: has no {part}, so that all parts of the array would do the same")
        if problems:
            raise SlurmError("\n".join(problems))
        check_name(self.name, "name")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline file.

    Attributes:
        name: of its folder.
        values: named texts for the steps; the command line may give others.
        points: axes, each `name: [value, ...]`; names of one axis go side by side, axes are multiplied.
        steps: in their order.
        resources: of all steps, over those of the site.
    """

    name: str
    values: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Axis, ...] = ()
    steps: tuple[Step, ...]
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        problems = []
        seen: set[str] = set()
        for step in self.steps:
            if step.name in seen:
                problems.append(f"steps: the name {step.name!r} occurs twice")
            problems += [
                f"steps.{step.name}.after: got {name!r}, expected a step above it"
                for name in step.after or ()
                if name not in seen
            ]
            if step.points and not self.points:
                problems.append(f"steps.{step.name}.points: the pipeline has no points")
            seen.add(step.name)
        if not self.steps:
            problems.append("steps: got none")
        problems += [
            f"points.{number}: the name {name!r} is one of the values too"
            for number, axis in enumerate(self.points)
            for name in axis
            if name in self.values
        ]
        if problems:
            raise SlurmError("\n".join(problems))
        check_name(self.name, "name")
        check_axes(self.points)

    def step(self, name: str) -> Step:
        """The step of a name."""
        return next(step for step in self.steps if step.name == name)

    def waits_for(self, index: int) -> tuple[str, ...]:
        """Names of the steps that a step waits for."""
        after = self.steps[index].after
        return after if after is not None else tuple(step.name for step in self.steps[max(0, index - 1) : index])


def _command_problems(command: str | None) -> list[str]:
    if command is None:
        return []
    try:
        words = shlex.split(command)
    except ValueError as error:
        return [f"command: got {command!r}, which cannot be split into words: {error}"]
    if not words:
        return ["command: got no words, expected a command line"]
    by_shell = words[0] in ("bash", "sh")
    return [
        f"command: got {word!r}, but no shell reads it; write bash -c '...' around what needs one"
        for word in words
        if word in _OF_A_SHELL or (not by_shell and _VARIABLE.search(word))
    ]
