"""The ready experiments: every file makes jobs whose recipes the trainer takes, over what the data pipeline makes."""

from pathlib import Path

import pytest

from slurm.points import make_points, resolve_values
from slurm.resources import DEFAULTS, load_site
from slurm.spec import Work
from slurm.step_job import Fills, step_job
from slurm.steps import Pipeline, Step
from slurm.typed import load_yaml
from tests.helpers.paths import ROOT
from trainer.config import load_recipe

FILES = sorted(path for path in (ROOT / "slurm" / "experiments").glob("*.yaml") if path.stem != "local")
DATA = ROOT / "slurm" / "experiments" / "data.yaml"
NAMES = {"data", "mixture", "projector", "resolution", "teachers", "cities"}


def jobs(file: Path, *overrides: str) -> list[tuple[Step, tuple[Work, ...]]]:
    pipeline = load_yaml(Pipeline, file, "pipeline")
    fills = Fills(
        values=resolve_values(pipeline.values, overrides), points=make_points(pipeline.points), directory=ROOT
    )
    return [
        (step, step_job(ROOT / "runs" / pipeline.name, i, step, DEFAULTS, fills).spec.works)
        for i, step in enumerate(pipeline.steps)
    ]


def test_there_is_a_file_for_each_experiment():
    assert {file.stem for file in FILES} == NAMES
    assert load_site(ROOT / "slurm" / "experiments" / "local.yaml").cpus_per_task == 1


@pytest.mark.parametrize("file", [f for f in FILES if f.stem != "data"], ids=lambda file: file.stem)
def test_the_trainer_takes_every_recipe(file):
    trained = [(step, work) for step, works in jobs(file) for work in works if work.is_training]
    assert trained
    for step, work in trained:
        overrides = [text for text in work.command[2:] if "=" in text]
        pipeline = load_yaml(Pipeline, file, "pipeline")
        recipe, _ = load_recipe(ROOT / resolve_recipe(step, pipeline), overrides)
        assert ROOT / recipe.run_dir == work.run_dir
        assert len({dataset.path for dataset in recipe.data.datasets}) == len(recipe.data.datasets)


def resolve_recipe(step: Step, pipeline: Pipeline) -> str:
    values = resolve_values(pipeline.values, [])
    return step.recipe if "{" not in step.recipe else values[step.recipe.strip("{}")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_another_root_moves_everything_that_is_written(file):
    for _, works in jobs(file, "root=elsewhere/x"):
        for work in works:
            assert not any("runs/experiments" in word for word in work.command)
            if work.run_dir is not None:
                assert work.run_dir.is_relative_to(ROOT / "elsewhere" / "x")


def test_experiments_read_only_what_the_data_pipeline_makes():
    made = {out for _, works in jobs(DATA) for work in works for out in _outputs(work)}
    assert len(made) == 11
    for file in FILES:
        values = resolve_values(load_yaml(Pipeline, file, "pipeline").values, [])
        read = {value for name, value in values.items() if value.startswith("runs/") and name not in ("root", "data")}
        assert read <= made, file.stem


def _outputs(work: Work) -> set[str]:
    out = work.command[work.command.index("--out") + 1]
    return {f"{out}/train", f"{out}/val"} if "--val-fraction" in work.command else {out}
