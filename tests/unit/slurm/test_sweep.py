"""Points of a sweep."""

import pytest
import yaml

from slurm import sweep
from slurm.cli import main
from slurm.sweep import parse_arrays, point_name, point_work, split_values, sweep_points
from slurm.typed import SlurmError


def test_commas_inside_brackets_and_quotes_do_not_separate():
    assert split_values("1,2") == ["1", "2"]
    assert split_values("[1,2],{a: 1, b: 2},'x,y',") == ["[1,2]", "{a: 1, b: 2}", "'x,y'", ""]


def test_product_and_zip():
    swept = parse_arrays(["optim.lr=1,2", "seed=3,4"])
    assert [tuple(point.values()) for point in sweep_points(swept, zipped=False)] == [
        ("1", "3"),
        ("1", "4"),
        ("2", "3"),
        ("2", "4"),
    ]
    assert sweep_points(swept, zipped=True) == [{"optim.lr": "1", "seed": "3"}, {"optim.lr": "2", "seed": "4"}]
    with pytest.raises(SlurmError, match="seed 3"):
        sweep_points(parse_arrays(["optim.lr=1,2", "seed=3,4,5"]), zipped=True)


@pytest.mark.parametrize(
    "texts",
    [["optim.lr"], ["=1"], ["a..b=1"], ["lr="], ["lr=1,,2"], ["lr=1,"], ["lr=1,[2"], ["a=1", "a=2"], ["run_dir=x,y"]],
)
def test_other_forms_are_refused(texts):
    with pytest.raises(SlurmError, match="--array"):
        parse_arrays(texts)


def test_names_are_fit_for_directories():
    assert point_name(3, {"optim.lr": "1e-3", "data.datasets": "[{path: a/b}]"}) == "003-lr=1e-3,datasets=__path__a_b__"


def test_a_point_has_its_own_run_directory_and_may_sweep_the_steps(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"stage": "distill", "run_dir": "runs/x", "steps": 5}))
    work = point_work(tmp_path / "s", recipe, ["seed=1"], 0, {"steps": "9"})
    assert work.run_dir == tmp_path / "s" / "points" / "000-steps=9"
    assert work.steps == 9
    assert work.command[-3:] == ("seed=1", "steps=9", f"run_dir={work.run_dir}")


@pytest.mark.parametrize(
    ("override", "said"), [("seed=5", "seed: got a value and an --array"), ("run_dir=x", "run_dir: each point")]
)
def test_settings_that_points_would_not_keep_are_refused(capsys, override, said):
    files = ["--recipe", "r.yaml", "--ds_config", "ds.json", "--dry-run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "complete", lambda asked, dry_run: asked)
        assert main(["sweep", *files, "--array", "seed=1,2", override]) == 2
    assert said in capsys.readouterr().err
