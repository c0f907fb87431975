"""Axes of a pipeline file in, its points out; texts with {name} in, the same with values in their place out.

points:
  - {mixture: [driving only, "4 : 1"], general: [0.001, 0.25]}   # values of one axis go side by side
  - {seed: [0, 1, 2]}                                            # every seed with every mixture: six points
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slurm.sweep import point_name
from slurm.typed import SlurmError, nearest

Axis = Mapping[str, tuple[str, ...]]

_PLACE = re.compile(r"(?<!\$)\{([a-z_][a-z0-9_]*)\}")
RESERVED = ("part", "parts", "point")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a pipeline.

    Attributes:
        name: fit for a directory; `{point}`.
        labels: the value of each axis's first name, which reports show.
        values: of all names.
    """

    name: str
    labels: Mapping[str, str]
    values: Mapping[str, str]


def make_points(axes: Sequence[Axis]) -> list[Point]:
    """The product of the axes; none without axes.

    Raises:
        SlurmError: an axis whose names have different numbers of values, no values, or a name that occurs twice.
    """
    check_axes(axes)
    rows = [[dict(zip(axis, row, strict=True)) for row in zip(*axis.values(), strict=True)] for axis in axes]
    points = []
    for index, chosen in enumerate(itertools.product(*rows) if axes else ()):
        labels = {name: value for own in chosen for name, value in list(own.items())[:1]}
        values = {name: value for own in chosen for name, value in own.items()}
        points.append(Point(name=point_name(index, labels), labels=labels, values=values))
    return points


def check_axes(axes: Sequence[Axis]) -> None:
    """Refuse axes that make no points; raises what `make_points` does."""
    problems, seen = [], set[str]()
    for number, axis in enumerate(axes):
        counts = {name: len(values) for name, values in axis.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            problems.append(f"points.{number}: names have different numbers of values: {listed}")
        if not axis or 0 in counts.values():
            problems.append(f"points.{number}: got no values, expected name: [value, ...]")
        problems += [f"points.{number}: the name {name!r} occurs twice" for name in axis if name in seen]
        problems += [f"points.{number}: the name {name!r} is taken; give another" for name in axis if name in RESERVED]
        seen |= set(axis)
    if problems:
        raise SlurmError("\n".join(problems))


def resolve_values(values: Mapping[str, str], overrides: Sequence[str]) -> dict[str, str]:
    """The values of a file with those of the command line (`name=value`) in their place; one may hold others.

    Raises:
        SlurmError: a name that the file does not have, or values that hold each other.
    """
    given = {}
    for text in overrides:
        name, _, value = text.partition("=")
        if name not in values:
            known = nearest(name, list(values)) if values else "this file has no values"
            raise SlurmError(f"command line: got {name!r}, which is not among the values of the pipeline; {known}")
        given[name] = value
    left, resolved = {**values, **given}, dict[str, str]()
    while left:
        ready = [name for name, text in left.items() if not set(_PLACE.findall(text)) & set(left)]
        if not ready:
            raise SlurmError(f"values: {', '.join(left)} hold each other")
        resolved |= {name: fill(left.pop(name), resolved) for name in ready}
    return resolved


def fill(text: str, values: Mapping[str, str]) -> str:
    """Put values in the place of {name}; other braces, such as those of YAML or ${name}, stay.

    Raises:
        SlurmError: a name without a value.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise SlurmError(
                f"{{{match[1]}}}: has no value; {nearest(match[1], list(values)) if values else 'got none'}"
            )
        return values[match[1]]

    return _PLACE.sub(value, text)
