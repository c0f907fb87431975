"""The report of a sweep: every point with its state, its value or its error."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slurm import attempts as records
from slurm import plot, state
from slurm.attempts import Attempts
from slurm.cli import main
from slurm.cluster import JobState
from slurm.report import reduced
from slurm.spec import Work, save_ids, save_spec
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
    rows = json.loads((sweep / "report.json").read_text())
    assert [row["state"] for row in rows] == ["done", "running", "failed", "waiting"]
    assert [row["metric"] for row in rows] == [2.0, 4.0, None, None]
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
    assert [row["metric"] for row in json.loads((sweep / "report.json").read_text())] == [2.5, None, None, None]
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
    plot.write_png(chart, tmp_path / "a.png")
    svg = ElementTree.fromstring(plot.render_svg(chart))
    for circle in svg.iter("{http://www.w3.org/2000/svg}circle"):
        assert plot.LEFT <= float(circle.get("cx")) <= plot.WIDTH - plot.RIGHT
        assert plot.TOP <= float(circle.get("cy")) <= plot.HEIGHT - plot.BOTTOM
