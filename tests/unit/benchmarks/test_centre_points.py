"""The comparison of ways to write points: which runs it makes, that it goes on where it was, and what it reports."""

import json

import pytest

from benchmarks import centre_points as benchmark

WHERE = "Where is the red car to the front of the ego vehicle?"
REFERENCE = "<c1,CAM_FRONT,800.0,450.0>."


def references(*answers):
    """One scene an answer; one scene with REFERENCE where there is none."""
    scenes = {}
    for number, answer in enumerate(answers or [REFERENCE]):
        questions = {"perception": [{"Q": WHERE, "A": answer, "tag": [3]}]}
        infos = {answer.rstrip("."): {"Distance": 12.0}}
        scenes[f"s{number}"] = {"key_frames": {"f": {"QA": questions, "key_object_infos": infos}}}
    return scenes


def rows(answer):
    return [{"id": "s0_f_0", "question": WHERE, "answer": answer}]


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Commands that leave the files they would make; the answer's error depends on the format."""
    done = []

    def make_world(data, **sizes):
        data.mkdir(parents=True, exist_ok=True)
        (data / "references.json").write_text(json.dumps(references()))

    def make_references(shards, out, log):
        answers = [f"<c1,CAM_FRONT,{x}.0,450.0>." for x in (700, 900, 910)]
        out.write_text(json.dumps(references(*answers)))

    def train(stage, run_dir, settings):
        done.append([stage, *settings])
        run_dir.mkdir(parents=True)
        return run_dir / "model"

    def answer(model, shards, out):
        x = 803.0 if "canvas" in str(out) else 840.0
        out.write_text(json.dumps(rows(REFERENCE.replace("800.0", str(x)))))
        return out

    for replacement in (make_world, make_references, train, answer):
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
    assert lines[-3].startswith("| canvas.0 weight 4 | 3.0 (0.0) |")
    assert lines[-2].startswith("| pixels.1 weight 4 | 40.0 (0.0) |")
    assert lines[-1].startswith("| no view seen | 100.0 |")
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["within"] for row in results.values()} == {0.0, 1.0}
    assert results["canvas.0-w4-s2"]["by_distance"]["10-15 m"]["points"] == 1


@pytest.mark.parametrize("name", ["pixels", "canvas.x", "world.1", "canvas.9"])
def test_a_format_that_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match="expected"):
        benchmark.parse_format(name)


def test_without_a_view_each_camera_gets_the_median_of_its_points():
    train = references(*(f"<c1,CAM_FRONT,{x}.0,{y}.0>." for x, y in ((100, 40), (200, 10), (900, 20))))
    assert [row["answer"] for row in benchmark.answers_without_views(train, references())] == [
        "<c1,CAM_FRONT,200.0,20.0>."
    ]


def test_an_answer_without_a_point_has_no_error_and_is_told_apart():
    row = benchmark.measure(references(), rows("Nothing."))
    assert (row["median"], row["within"], row["match_f1"]) == (None, 0.0, 0.0)
    assert "| way | – |" in benchmark.table({"a": {"way": "way", **row}})
