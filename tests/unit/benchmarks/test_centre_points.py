"""The comparison of ways to write points: which runs it makes, that it goes on where it was, and what it reports."""

import json

import pytest

from benchmarks import centre_points as benchmark

OBJECTS = "What are the important objects in the current scene? Those objects will be considered."
REFERENCE = (
    "There is a red car to the front of the ego vehicle. The IDs of these objects are <c1,CAM_FRONT,800.0,450.0>."
)


def references():
    questions = {"perception": [{"Q": OBJECTS, "A": REFERENCE, "tag": [2]}]}
    infos = {"<c1,CAM_FRONT,800.0,450.0>": {"Distance": 12.0}}
    return {"s": {"key_frames": {"f": {"QA": questions, "key_object_infos": infos}}}}


def rows(answer):
    return [{"id": "s_f_0", "question": OBJECTS, "answer": answer}]


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Commands that leave the files they would make; the answer's error depends on the format."""
    done = []

    def make_world(data, **sizes):
        data.mkdir(parents=True, exist_ok=True)
        (data / "references.json").write_text(json.dumps(references()))

    def train(stage, run_dir, settings):
        done.append([stage, *settings])
        run_dir.mkdir(parents=True)
        return run_dir / "model"

    def answer(model, shards, out):
        x = 803.0 if "canvas" in str(out) else 840.0
        out.write_text(json.dumps(rows(REFERENCE.replace("800.0", str(x)))))
        return out

    for replacement in (make_world, train, answer):
        monkeypatch.setattr(benchmark, replacement.__name__, replacement)
    return done


def test_every_combination_is_trained_once_and_the_best_way_comes_first(pretended, tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--formats", "pixels.1", "canvas.0", "--weights", "4", "--seeds", "1", "2"]
    assert benchmark.main(arguments) == 0
    assert [command[0] for command in pretended] == ["finetune"] * 4
    assert {f"seed={seed}" for seed in (1, 2)} <= {setting for command in pretended for setting in command}
    assert all("coordinate_weight=4.0" in command for command in pretended)
    assert sum("data.coordinates={space: canvas, decimals: 0}" in command for command in pretended) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("| canvas.0 weight 4 | 3.0 (0.0) |")
    assert lines[-1].startswith("| pixels.1 weight 4 | 40.0 (0.0) |")
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["within"] for row in results.values()} == {0.0, 1.0}
    assert results["canvas.0-w4-s2"]["by_distance"]["10-15 m"]["points"] == 1


@pytest.mark.parametrize("name", ["pixels", "canvas.x", "world.1", "canvas.9"])
def test_a_format_that_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match="expected"):
        benchmark.parse_format(name)


def test_an_answer_without_a_point_has_no_error_and_is_told_apart():
    row = benchmark.measure(references(), rows("Nothing."))
    assert (row["median"], row["within"], row["paired"]) == (None, 0.0, 0.0)
    assert "| way | – |" in benchmark.table({"a": {"way": "way", **row}})
