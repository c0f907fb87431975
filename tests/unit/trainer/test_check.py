"""Settings are checked before data and models exist."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.paths import ROOT
from trainer import check

GOOD = {"stage": "align", "run_dir": "runs/x", "steps": 3, "data": {"datasets": [{"path": "not/there/yet"}]}}
MODEL = {"vision": "nowhere/model", "language": "nowhere/too", "tokenizer": "nowhere/too"}


def run(tmp_path: Path, name: str, *overrides: str, **changes: Any) -> dict[str, Any]:
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**GOOD, "model": MODEL, **changes}))
    config = str(ROOT / "ds_configs" / "cpu_zero3.json")
    return {"name": name, "recipe": str(path), "ds_config": config, "overrides": list(overrides), "world_size": 4}


def test_runs_whose_inputs_are_not_there_yet_are_good(tmp_path, capsys):
    assert check.main(json.dumps([run(tmp_path, "a"), run(tmp_path, "b", "optim.lr=1e-4", "steps=7")])) == 0
    assert capsys.readouterr().out.strip() == ""


@pytest.mark.parametrize(
    ("overrides", "changes", "said"),
    [
        (("optim.lrr=1e-3",), {}, "optim.lrr: unknown field"),
        (("steps=0",), {}, "steps: got 0"),
        (("seed",), {}, "expected section.field=value"),
        ((), {"stage": "finetune"}, "model.vlm: missing"),
    ],
)
def test_each_problem_is_a_line_with_the_name_of_its_run(tmp_path, capsys, overrides, changes, said):
    assert check.main(json.dumps([run(tmp_path, "good"), run(tmp_path, "bad", *overrides, **changes)])) == 2
    lines = capsys.readouterr().out.strip().splitlines()
    assert all(line.startswith("bad: ") for line in lines)
    assert any(said in line for line in lines)


def test_a_deepspeed_file_that_takes_what_the_recipe_owns_is_a_problem(tmp_path, capsys):
    (tmp_path / "ds.json").write_text('{"train_micro_batch_size_per_gpu": 3, "scheduler": {}}')
    assert check.main(json.dumps([{**run(tmp_path, "a"), "ds_config": str(tmp_path / "ds.json")}])) == 2
    assert "'scheduler' belongs to the recipe" in capsys.readouterr().out
