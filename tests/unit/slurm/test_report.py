"""The report of a sweep: every point with its state, its value or its error."""

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slurm import attempts as records
from slurm import plot, state
from slurm.attempts import Attempts
from slurm.cli import main
from slurm.cluster import JobState
from slurm.report import parse_metrics
from slurm.report_page import make_charts
from slurm.report_rows import Group, Metric, Spread, grouped, read_rows, reduced
from slurm.spec import Work, save_ids, save_spec
from slurm.typed import SlurmError
from tests.unit.slurm.samples import spec, start


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Done, running, failed and waiting points over a learning rate."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    rates = ("1e-4", "1e-3", "1e-2", "1e-1")
    works = [Work(name=f"lr={r}", command=("true",), run_dir=folder / r, values={"optim.lr": r}) for r in rates]
    save_spec(folder, spec(*works))
    save_ids(folder, tuple(f"7_{i}" for i in range(4)))
    for rate, losses in (("1e-4", [3.0, 2.0]), ("1e-3", [4.0])):
        (folder / rate).mkdir()
        lines = [json.dumps({"step": i + 1, "time": i, "loss/total": loss}) for i, loss in enumerate(losses)]
        (folder / rate / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 3, "ti')
    (folder / "1e-4" / "summary.json").write_text(json.dumps({"steps": 2, "loss_last": 2.5}))
    outcomes = [records.DONE, records.OPEN, records.CRASHED]
    for i, outcome in enumerate(outcomes):
        ended = None if outcome == records.OPEN else 2.0
        one = start(0, outcome, job=f"7_{i}", ended=ended, reason="rank 0: out of <memory>" if i == 2 else "")
        records.save_attempts(folder, i, Attempts(starts=(one,)))
    queue = {
        "7_1": JobState(state="RUNNING", reason="None", nodes="n1"),
        "7_3": JobState(state="PENDING", reason="JobArrayTaskLimit", nodes=""),
    }
    monkeypatch.setattr(state, "job_states", lambda: queue)
    monkeypatch.setattr(state, "has_sbatch", lambda: True)
    return folder


def test_every_point_is_shown_with_its_state(sweep, capsys):
    assert main(["report", str(sweep)]) == 0
    rows = json.loads((sweep / "report.json").read_text())["points"]
    assert [row["state"] for row in rows] == ["done", "running", "failed", "waiting"]
    assert [row["metrics"]["loss/total"] for row in rows] == [2.0, 4.0, None, None]
    assert [row["step"] for row in rows] == [2, 1, 0, 0]
    said = capsys.readouterr().out
    assert "lr=1e-2: failed: rank 0: out of <memory>" in said
    assert "lr=1e-1: waiting: JobArrayTaskLimit" in said


def test_page_and_picture_show_the_same_points(sweep):
    main(["report", str(sweep), "--out", str(sweep / "out")])
    page = (sweep / "out" / "report.html").read_text()
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    circles = list(svg.iter("{http://www.w3.org/2000/svg}circle"))
    assert [circle.get("fill") for circle in circles] == [plot.COLOURS[0], "#ffffff"]
    assert "out of &lt;memory&gt;" in page
    picture = np.asarray(Image.open(sweep / "out" / "report.png"))
    colour = tuple(int(plot.COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    whole, hollow = ((round(float(c.get("cy"))), round(float(c.get("cx")))) for c in circles)
    assert tuple(picture[whole]) == colour
    assert tuple(picture[hollow]) == (255, 255, 255)
    assert tuple(picture[hollow[0], hollow[1] + 4]) == colour


def test_summaries_and_reductions_can_be_asked_for(sweep, capsys):
    assert main(["report", str(sweep), "--metric", "loss_last"]) == 0
    points = json.loads((sweep / "report.json").read_text())["points"]
    assert [row["metrics"]["loss_last"] for row in points] == [2.5, None, None, None]
    assert [reduced([3.0, 1.0, 2.0], how) for how in ("last", "mean10", "min", "max")] == [2.0, 2.0, 1.0, 3.0]
    assert reduced([], "min") is None
    assert main(["report", str(sweep), "--metric", "loss/totl"]) == 2
    assert "did you mean 'loss/total'" in capsys.readouterr().err


def test_a_job_that_is_no_sweep_has_no_report(tmp_path, capsys):
    save_spec(tmp_path, spec())
    assert main(["report", str(tmp_path)]) == 2
    assert "is no sweep" in capsys.readouterr().err


@pytest.mark.parametrize("categories", [None, ["linear", "mlp"]])
@pytest.mark.parametrize("ys", [[], [1.0], [1.0, 1.0], [-3.0, 1e6]])
def test_any_points_make_a_chart_inside_its_frame(tmp_path, categories, ys):
    points = [plot.Point(x=float(i), y=y, whole=True, title="p") for i, y in enumerate(ys)]
    chart = plot.Chart(x_label="x", y_label="y", series={"": points} if points else {}, categories=categories)
    plot.write_png([chart, chart], tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (plot.WIDTH, 2 * plot.HEIGHT)
    svg = ElementTree.fromstring(plot.render_svg(chart))
    for circle in svg.iter("{http://www.w3.org/2000/svg}circle"):
        assert plot.LEFT <= float(circle.get("cx")) <= plot.WIDTH - plot.RIGHT
        assert plot.TOP <= float(circle.get("cy")) <= plot.HEIGHT - plot.BOTTOM


def test_a_mean_of_points_has_a_bar_from_the_smallest_to_the_largest_of_them():
    point = plot.Point(x=1.0, y=2.0, whole=True, title="mean of 2", low=0.0, high=3.0)
    chart = plot.Chart(x_label="x", y_label="y", series={"": [point]}, categories=None)
    svg = ElementTree.fromstring(plot.render_svg(chart))
    colour = plot.COLOURS[0]
    (bar,) = [p.get("d") for p in svg.iter("{http://www.w3.org/2000/svg}path") if p.get("stroke") == colour]
    (circle,) = svg.iter("{http://www.w3.org/2000/svg}circle")
    low, high = map(float, bar.split(" ")[1].split("V"))
    assert plot.TOP <= high < float(circle.get("cy")) < low <= plot.HEIGHT - plot.BOTTOM
    assert bar.startswith(f"M{circle.get('cx')} ")


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two steps over projector and seed: trained, then scored but for the last point, whose scoring failed."""
    monkeypatch.setattr(state, "has_sbatch", lambda: False)
    root = tmp_path / "pipeline"
    points = [{"projector": projector, "seed": seed} for projector in ("linear", "mlp") for seed in "01"]
    data, train, score = (root / name for name in ("00-data", "01-train", "02-score"))
    for folder in (data, train, score):
        folder.mkdir(parents=True)
    save_spec(data, spec(name="data"))
    runs = [root / f"run-{i}" for i in range(4)]
    trained = [Work(name=f"p{i}", command=("x",), run_dir=runs[i], values=values) for i, values in enumerate(points)]
    files = [root / f"scores-{i}.json" for i in range(4)]
    scored = [Work(name=f"p{i}", command=("x",), results=files[i], values=values) for i, values in enumerate(points)]
    save_spec(train, spec(*trained, name="train"))
    save_spec(score, spec(*scored, name="score"))
    for folder in (train, score):
        save_ids(folder, tuple(f"{folder.name}_{i}" for i in range(4)))
    for i in range(4):
        runs[i].mkdir()
        (runs[i] / "metrics.jsonl").write_text(json.dumps({"step": 9, "time": 0, "loss/total": 1.0 + i}) + "\n")
        done = start(0, records.DONE, job=f"{train.name}_{i}")
        last = replace(done, job=f"{score.name}_{i}")
        if i == 3:
            last = replace(last, outcome=records.CRASHED, reason="rank 0: no such file")
        records.save_attempts(train, i, Attempts(starts=(done,)))
        records.save_attempts(score, i, Attempts(starts=(last,)))
        if i < 3:
            files[i].write_text(json.dumps({"ungated": {"accuracy": 0.1 * i}, "rows": [1, 2], "final": None}))
    return root


def test_a_pipelines_steps_are_put_together_point_by_point(pipeline):
    metrics = [Metric(name="loss/total", label="loss"), Metric(name="score.ungated.accuracy", label="accuracy")]
    rows = read_rows(pipeline, metrics)
    assert [dict(row.metrics) for row in rows[:3]] == [{"loss": 1.0 + i, "accuracy": 0.1 * i} for i in range(3)]
    assert dict(rows[3].metrics) == {"loss": 4.0, "accuracy": None}
    assert [row.state for row in rows] == ["done", "done", "done", "failed"]
    assert rows[3].error == "score: rank 0: no such file"
    assert [row.step for row in rows] == [9, 9, 9, 9]
    assert [row.state for row in read_rows(pipeline, metrics[:1], "train")] == ["done"] * 4
    with pytest.raises(SlurmError, match="--step: got 'data'"):
        read_rows(pipeline, metrics, "data")
    with pytest.raises(SlurmError, match="did you mean 'score.ungated.accuracy'"):
        read_rows(pipeline, [Metric(name="score.accuracy", label="x")])


def test_seeds_are_put_together_with_mean_and_spread(pipeline):
    metrics = [Metric(name="loss/total", label="loss"), Metric(name="score.ungated.accuracy", label="accuracy")]
    linear, mlp = grouped(read_rows(pipeline, metrics), ["seed"])
    assert (linear.values, mlp.values) == ({"projector": "linear"}, {"projector": "mlp"})
    assert (linear.metrics["loss"].mean, linear.metrics["loss"].low, linear.metrics["loss"].high) == (1.5, 1.0, 2.0)
    assert (mlp.metrics["accuracy"].mean, mlp.metrics["accuracy"].count) == (0.2, 1)
    assert (linear.done, mlp.done) == (True, False)
    with pytest.raises(SlurmError, match="--over: got 'sed'; did you mean 'seed'"):
        grouped(read_rows(pipeline, metrics), ["sed"])


def test_several_metrics_have_a_chart_each_or_one_together(pipeline, capsys):
    asked = ["--metric", "loss/total", "--metric", "accuracy=score.ungated.accuracy", "--over", "seed"]
    assert main(["report", str(pipeline), *asked]) == 0
    said = capsys.readouterr().out
    assert "| linear    | 1.5 (1 to 2) | 0.05 (0 to 0.1) | 2      |" in said
    assert "p3: failed: score: " in said
    page = (pipeline / "report.html").read_text()
    assert (page.count("<svg"), page.count("<circle")) == (2, 4)
    assert Image.open(pipeline / "report.png").size == (plot.WIDTH, 2 * plot.HEIGHT)
    assert main(["report", str(pipeline), *asked, "--together", "--title", "A & B"]) == 0
    page = (pipeline / "report.html").read_text()
    assert (page.count("<svg"), page.count("<circle")) == (1, 4)
    assert "<h1>A &amp; B</h1>" in page
    groups = json.loads((pipeline / "report.json").read_text())["groups"]
    assert groups[0]["metrics"]["loss/total"] == {"mean": 1.5, "low": 1.0, "high": 2.0, "count": 2}


def test_metrics_may_have_labels():
    assert parse_metrics(["a/b", "x=c"], "last") == [Metric(name="a/b", label="a/b"), Metric(name="c", label="x")]
    assert parse_metrics(["a"], "min") == [Metric(name="a", label="a (min)", reduce="min")]
    for texts in (["=a"], ["a="], ["x=a", "x=b"]):
        with pytest.raises(SlurmError, match="--metric"):
            parse_metrics(texts, "last")


def test_a_run_that_diverged_is_not_shown_with_its_last_good_value(sweep, capsys):
    with (sweep / "1e-4" / "metrics.jsonl").open("w") as file:
        for step, loss in enumerate([3.0, 2.0, None]):
            file.write(json.dumps({"step": step, "time": step, "loss/total": loss}) + "\n")
    assert main(["report", str(sweep)]) == 0
    assert "| 1e-4     | nan        |" in capsys.readouterr().out
    text = (sweep / "report.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["points"][0]["metrics"] == {"loss/total": None}
    assert [reduced([3.0, math.nan, 1.0], how) for how in ("min", "max")] == [1.0, 3.0]
    assert math.isnan(reduced([math.nan], "min"))


def test_a_sweep_of_which_every_point_failed_has_a_report(sweep, capsys):
    for name in ("1e-4", "1e-3"):
        (sweep / name / "metrics.jsonl").unlink()
    (sweep / "1e-4" / "summary.json").unlink()
    for i in range(4):
        failed = start(0, records.CRASHED, job=f"7_{i}", reason="no data")
        records.save_attempts(sweep, i, Attempts(starts=(failed,)))
    assert main(["report", str(sweep), "--metric", "whatever"]) == 0
    assert capsys.readouterr().out.count("failed: no data") == 4


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_names_of_categories_do_not_run_into_each_other():
    names = ["[{path: shards/first, weight: 2}]", "b", "another long name of a category"] * 3
    chart = plot.Chart(x_label="x", y_label="y", series={}, categories=names)
    svg = ElementTree.fromstring(plot.render_svg(chart))
    texts = [t for t in svg.iter("{http://www.w3.org/2000/svg}text") if t.get("text-anchor") == "middle"][:-1]
    places = [float(t.get("x")) for t in texts if t.get("y") == texts[0].get("y")]
    widest = max(len(t.text) for t in texts) * 7
    assert min(b - a for a, b in zip(places, places[1:], strict=False)) > widest
    assert "b" in [t.text for t in texts]


def test_a_mean_over_the_only_field_is_one_point(sweep, capsys):
    assert main(["report", str(sweep), "--over", "optim.lr"]) == 0
    assert (sweep / "report.html").read_text().count("<circle") == 1
    assert "| 3 (2 to 4) | 4      |" in capsys.readouterr().out


def test_a_field_that_goes_side_by_side_with_the_axis_makes_no_lines():
    def group(**values: str) -> Group:
        spread = Spread(mean=1.0, low=1.0, high=1.0, count=1)
        return Group(values=values, metrics={"loss": spread}, done=True, names=("p",))

    (chart,) = make_charts([group(width="64", rate="0.1"), group(width="160", rate="0.2")], together=False)
    assert list(chart.series) == [""]
    assert [point.x for point in chart.series[""]] == [64.0, 160.0]
    product = [group(width=width, rate=rate) for width in ("64", "160") for rate in ("0.1", "0.2")]
    (chart,) = make_charts(product, together=False)
    assert list(chart.series) == ["rate=0.1", "rate=0.2"]


def test_sweeps_that_lie_beside_each_other_are_not_put_together(sweep, capsys):
    assert main(["report", str(sweep.parent)]) == 2
    assert "is no sweep and has no steps over points" in capsys.readouterr().err
