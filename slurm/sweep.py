"""Values of recipe fields in, one SLURM array out: an element, a run directory and hparams records for each point."""

import argparse
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from slurm import resources
from slurm.batch_job import BatchJob, batch_script, submit
from slurm.hparams import write_experiment, write_start
from slurm.lock import only_here
from slurm.recipe_check import recipe_facts
from slurm.snapshot import SNAPSHOT
from slurm.spec import Work, check_new
from slurm.submit import (
    DS_CONFIG_COPY,
    RECIPE_COPY,
    add_job_options,
    check_files,
    check_recipe,
    complete,
    job_folder,
    job_spec,
    print_submitted,
    training_command,
)
from slurm.typed import SlurmError, yaml_problem

POINTS = "points"


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Options of `sweep`."""
    add_job_options(parser)
    parser.add_argument(
        "--array", action="append", required=True, metavar="section.field=v1,v2", help="may be repeated"
    )
    parser.add_argument("--zip", action="store_true", help="first values together, second together, ...: no product")
    parser.add_argument("--throttle", type=int, help="points that run at the same time (default: all)")
    parser.add_argument("--metric", default="loss/total", help="curve that TensorBoard's hparams show")


def sweep_command(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """`python -m slurm sweep`. The trainer checks the first point; another point's bad value fails that point alone."""
    asked = complete(resources.from_options(options).over(resources.load_site(options.site)), options.dry_run)
    swept = parse_arrays(options.array)
    _check_overrides(swept, overrides)
    points = sweep_points(swept, zipped=options.zip)
    if options.throttle is not None and options.throttle < 1:
        raise SlurmError(f"--throttle: got {options.throttle}, expected 1 or more")
    directory = Path.cwd()
    name = options.name or "sweep"
    folder = job_folder(options.folder, name)
    works = tuple(point_work(folder, options.recipe, overrides, i, point) for i, point in enumerate(points))
    job = BatchJob(
        folder=folder,
        spec=job_spec(name, directory, works, asked),
        asked=asked,
        commit=options.commit,
        files={RECIPE_COPY: options.recipe, DS_CONFIG_COPY: options.ds_config},
        throttle=options.throttle,
    )
    if options.dry_run:
        print(batch_script(job), end="")
        return
    with only_here(folder):
        check_new(folder)
        check_files(job)
        print(check_recipe(options, [*overrides, *as_overrides(points[0])], job))
        ids = submit(job)
    write_experiment(folder / POINTS, swept, options.metric)
    for work in works:
        if work.run_dir is not None:
            write_start(work.run_dir / "tensorboard", work.values, work.name)
    print_submitted(job, ids)


def parse_arrays(texts: Sequence[str]) -> dict[str, list[str]]:
    """`section.field=v1,v2` in, values by field out; commas inside brackets, braces and quotes do not separate.

    Raises:
        SlurmError: another form, a field given twice, or a value that is empty or no YAML.
    """
    swept: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not all(name.split(".")) or not values:
            raise SlurmError(f"--array: got {text!r}, expected section.field=v1,v2,...")
        if name in swept:
            raise SlurmError(f"--array: {name} is given twice; put all its values into one --array")
        if name == "run_dir":
            raise SlurmError("--array run_dir: each point has its own run directory already")
        swept[name] = split_values(values)
        _check_values(name, swept[name])
    return swept


def _check_overrides(swept: Mapping[str, Sequence[str]], overrides: Sequence[str]) -> None:
    """Refuse settings that points would not keep."""
    for name in (override.partition("=")[0] for override in overrides):
        if name in swept:
            raise SlurmError(f"{name}: got a value and an --array; give one of the two")
        if name == "run_dir":
            raise SlurmError("run_dir: each point of a sweep has one of its own, in the folder; leave it out")


def _check_values(name: str, values: Sequence[str]) -> None:
    for value in values:
        if not value.strip():
            raise SlurmError(f"--array {name}: got an empty value; write null for none, '' for an empty text")
        try:
            yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SlurmError(
                f"--array {name}: {value!r} is not YAML ({yaml_problem(error)}); close its brackets and quotes"
            ) from error


def split_values(text: str) -> list[str]:
    """Split at commas outside brackets, braces and quotes."""
    values, depth, quote, current = [], 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            values.append(current)
            current = ""
            continue
        current += character
    return [*values, current]


def sweep_points(swept: Mapping[str, Sequence[str]], *, zipped: bool) -> list[dict[str, str]]:
    """All combinations in the order of the fields, or the values taken side by side.

    Raises:
        SlurmError: values side by side that are not equally many.
    """
    names = list(swept)
    if zipped and len({len(values) for values in swept.values()}) > 1:
        counts = ", ".join(f"{name} {len(values)}" for name, values in swept.items())
        raise SlurmError(f"--zip: fields have different numbers of values: {counts}")
    rows = zip(*swept.values(), strict=True) if zipped else itertools.product(*swept.values())
    return [dict(zip(names, row, strict=True)) for row in rows]


def point_name(index: int, values: Mapping[str, str]) -> str:
    """`003-optim.lr=0.001`, fit for a directory."""
    text = ",".join(f"{name.rpartition('.')[2]}={value}" for name, value in values.items())
    return f"{index:03d}-" + re.sub(r"[^A-Za-z0-9._=,+-]", "_", text)[:100]


def as_overrides(values: Mapping[str, str]) -> list[str]:
    """Values of a point as the trainer takes them."""
    return [f"{name}={value}" for name, value in values.items()]


def point_work(folder: Path, recipe: Path, overrides: Sequence[str], index: int, values: Mapping[str, str]) -> Work:
    """One point of a sweep."""
    name = point_name(index, values)
    run_dir = folder / POINTS / name
    laid_over = [*overrides, *as_overrides(values), f"run_dir={run_dir}"]
    facts = recipe_facts(recipe, laid_over, folder)
    command = training_command(folder, folder / SNAPSHOT, laid_over)
    return Work(name=name, command=command, run_dir=run_dir, steps=facts.steps, values=values)
