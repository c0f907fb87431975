"""YAML and JSON to dataclasses: nothing unknown, nothing of a wrong type, everything wrong at once."""

from pathlib import Path

import pytest
import yaml

from slurm.spec import Work
from slurm.steps import Pipeline
from slurm.typed import SlurmError, from_json, load_yaml, to_json, write_whole
from tests.unit.slurm.samples import spec


def test_what_is_written_as_json_reads_back_the_same(tmp_path):
    one = spec(Work(name="a", command=("python", "x y"), run_dir=Path("/r"), steps=3, values={"lr": "1e-3"}))
    write_whole(tmp_path / "spec.json", to_json(one))
    assert from_json(type(one), tmp_path / "spec.json") == one
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_all_problems_come_at_once_with_the_nearest_name(tmp_path):
    file = tmp_path / "work.yaml"
    file.write_text("nam: x\ncommand: [1]\nsteps: many\n")
    with pytest.raises(SlurmError) as caught:
        load_yaml(Work, file, "work")
    said = str(caught.value)
    assert "nam: unknown field; did you mean 'name'?" in said
    assert "command.0: got 1, expected text" in said
    assert "steps: got 'many', expected a whole number" in said
    assert all(line.startswith(str(file)) for line in said.splitlines())


@pytest.mark.parametrize(("text", "said"), [("[1]", "got list"), ("a: [", "not YAML"), (None, "cannot be read")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, said):
    file = tmp_path / "work.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SlurmError, match=said):
        load_yaml(Work, file, "work")


def test_in_mappings_anything_may_stand_for_a_text(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(
        "name: p\nsteps: [{name: s, command: x}]\nvalues: {steps: 5, rate: 0.1, exact: true, nothing: null}\n"
        "points: [{sets: [[{name: a, path: '{root}/a', weight: 0.5}], []]}, {seed: 1}]\n"
    )
    with pytest.raises(SlurmError, match="points.1.seed: got 1, expected a list"):
        load_yaml(Pipeline, file, "pipeline")
    file.write_text(file.read_text().replace("{seed: 1}", "{seed: [1]}"))
    made = load_yaml(Pipeline, file, "pipeline")
    assert made.values == {"steps": "5", "rate": "0.1", "exact": "true", "nothing": "null"}
    assert made.points[1] == {"seed": ("1",)}
    first, second = made.points[0]["sets"]
    assert yaml.safe_load(first) == [{"name": "a", "path": "{root}/a", "weight": 0.5}]
    assert "\n" not in first
    assert second == "[]"
