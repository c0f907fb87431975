"""Folder of a sweep or pipeline and names of metrics in, a row for each point and means over some fields out."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slurm.progress import read_json, read_metrics, read_summary
from slurm.spec import JobSpec, Work, load_spec
from slurm.state import DONE_STATE, RUNNING_STATE, ElementState, element_states
from slurm.status import job_folders
from slurm.typed import SlurmError, nearest

REDUCTIONS = ("last", "mean10", "min", "max")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is shown: its name in metrics.jsonl, summary.json or results, how it is headed, how it is reduced."""

    name: str
    label: str
    reduce: str = "last"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A point.

    Attributes:
        name, values: of it.
        state: done, running, waiting, failed, ...; of a pipeline that of the first step which is not done.
        step: last logged.
        metrics: by label, None where one has not been logged.
        error: why it failed, or why it waits.
    """

    name: str
    values: Mapping[str, str]
    state: str
    step: int
    metrics: Mapping[str, float | None]
    error: str


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean, smallest and largest of `count` points."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """Points that differ only in fields that are averaged over.

    Attributes:
        values: of the other fields.
        metrics: by label, None where no point has one.
        done: whether all of its points are.
        names: of its points.
    """

    values: Mapping[str, str]
    metrics: Mapping[str, Spread | None]
    done: bool
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A step over points: how its metrics are prefixed, what it runs, and where its elements stand."""

    name: str
    spec: JobSpec
    states: Sequence[ElementState]


def read_rows(folder: Path, metrics: Sequence[Metric], step: str | None = None) -> list[Row]:
    """What became of each point.

    Args:
        folder: of a sweep, or of a pipeline whose steps ran over points: their metrics are put together.
        step: only this step of a pipeline.

    Raises:
        SlurmError: no points there, no such step, or no point has logged a metric, though some have logged others.
    """
    steps = _steps(folder, step)
    rows, known = [], set[str]()
    for index, work in enumerate(steps[-1].spec.works):
        own = {one.name: _row(one, one.spec.works[index], one.states[index], metrics, known) for one in steps}
        rows.append(_joined(own, work))
    for metric in metrics:
        if known and metric.name not in known:
            raise SlurmError(f"--metric: got {metric.name!r}; {nearest(metric.name, sorted(known))}")
    return rows


def grouped(rows: Sequence[Row], over: Sequence[str]) -> list[Group]:
    """Rows put together that differ in the fields `over` alone, in the order of the first ones.

    Raises:
        SlurmError: a field that the points do not have.
    """
    fields = list(rows[0].values)
    for name in over:
        if name not in fields:
            raise SlurmError(f"--over: got {name!r}; {nearest(name, fields)}")
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(value for name, value in row.values.items() if name not in over), []).append(row)
    return [
        Group(
            values={name: value for name, value in own[0].values.items() if name not in over},
            metrics={label: _spread([row.metrics[label] for row in own]) for label in own[0].metrics},
            done=all(row.state == DONE_STATE for row in own),
            names=tuple(row.name for row in own),
        )
        for own in groups.values()
    ]


def reduced(series: Sequence[float], how: str) -> float | None:
    """One number of a series; None of an empty one. Smallest and largest are those of its numbers, if it has any."""
    if not series:
        return None
    if how in ("min", "max"):
        series = [value for value in series if not math.isnan(value)] or series
    if how == "mean10":
        return sum(series[-10:]) / len(series[-10:])
    return {"last": series[-1], "min": min(series), "max": max(series)}[how]


def _steps(folder: Path, wanted: str | None) -> list[_Step]:
    if not folder.is_dir():
        raise SlurmError(f"{folder}: no such folder; give that of a sweep or pipeline")
    found = []
    for job in _jobs(folder):
        spec = load_spec(job)
        if all(work.values for work in spec.works):
            found.append(_Step(name=spec.name, spec=spec, states=element_states(job, spec)))
    if not found:
        raise SlurmError(
            f"{folder}: is no sweep and has no steps over points; `python -m slurm status` shows jobs and pipelines"
        )
    names = [step.name for step in found]
    if wanted is not None and wanted not in names:
        raise SlurmError(f"--step: got {wanted!r}; {nearest(wanted, names)}")
    return [step for step in found if wanted in (None, step.name)]


def _jobs(folder: Path) -> list[Path]:
    """A sweep itself, or the steps of a pipeline: other jobs in one directory have nothing to do with each other."""
    return [job for job in job_folders(folder) if job == folder or re.match(r"\d\d+-", job.name)]


def _row(step: _Step, work: Work, state: ElementState, metrics: Sequence[Metric], known: set[str]) -> Row:
    series, last_step = _series(step, work)
    known |= set(series)
    error = "" if state.state in (DONE_STATE, RUNNING_STATE) else state.reason
    return Row(
        name=work.name,
        values=dict(work.values),
        state=state.state,
        step=last_step,
        metrics={metric.label: reduced(series.get(metric.name, []), metric.reduce) for metric in metrics},
        error=error,
    )


def _joined(by_step: Mapping[str, Row], work: Work) -> Row:
    """The rows of a point's steps as one: the last one with a metric gives it, the first one not done the state."""
    rows = list(by_step.values())
    name, stuck = next(((name, row) for name, row in by_step.items() if row.state != DONE_STATE), ("", rows[-1]))
    if stuck.error and len(rows) > 1:
        stuck = replace(stuck, error=f"{name}: {stuck.error}")
    metrics = {
        label: next((row.metrics[label] for row in reversed(rows) if row.metrics[label] is not None), None)
        for label in rows[0].metrics
    }
    last_step = next((row.step for row in reversed(rows) if row.step), 0)
    return replace(stuck, name=work.name, values=dict(work.values), metrics=metrics, step=last_step)


def _series(step: _Step, work: Work) -> tuple[dict[str, list[float]], int]:
    """Logged values by metric (single ones of summaries and results too), and the last logged step. What was logged and
    was no number is `nan`: a run that has diverged is not shown with its last good value."""
    if work.results is not None:
        numbers = _numbers(read_json(work.results))
        return {f"{step.name}.{name}": [value] for name, value in numbers.items()}, 0
    if work.run_dir is None:
        return {}, 0
    series = {name: [value] for name, value in _numbers(read_summary(work.run_dir)).items()}
    logged: dict[str, list[float]] = {}
    last_step = 0
    for entry in read_metrics(work.run_dir):
        last_step = int(entry["step"])
        for name, value in entry.items():
            if name not in ("step", "time") and isinstance(value, int | float | None):
                logged.setdefault(name, []).append(math.nan if value is None else value)
    return series | logged, last_step


def _numbers(tree: Any, place: str = "") -> dict[str, float]:
    """Numbers of nested JSON by dotted name."""
    if isinstance(tree, dict):
        return {n: v for name, item in tree.items() for n, v in _numbers(item, f"{place}.{name}".lstrip(".")).items()}
    return {place: float(tree)} if isinstance(tree, int | float) and not isinstance(tree, bool) else {}


def _spread(values: Sequence[float | None]) -> Spread | None:
    found = [value for value in values if value is not None]
    if not found:
        return None
    return Spread(mean=sum(found) / len(found), low=min(found), high=max(found), count=len(found))
