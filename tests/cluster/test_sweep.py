"""A sweep on the local SLURM: two points at a time, one of them failing, and its report."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from slurm.attempts import load_attempts
from tests.cluster import jobs
from tests.helpers.dist import CPU_ZERO3
from tests.helpers.stages import write_recipe

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster")]


def test_a_sweep_with_a_failing_point_ends_with_a_report(world):
    folder = world / "sweep"
    recipe = write_recipe(world, "distill", world / "unused", steps=2)
    files = ("--recipe", str(recipe), "--ds_config", str(CPU_ZERO3), "--folder", str(folder))
    swept = ("--array", "distill.codebook_size=8,16,1000000,32", "--throttle", "2", "--cpus-per-task", "1")
    jobs.slurm("sweep", *files, *swept, "--unchecked", "optim.weight_decay=0.0")
    jobs.slurm("report", str(folder))
    before = {row["state"] for row in _points(folder)}
    assert before <= {"waiting", "running"}

    jobs.wait_for_end(folder, elements=4)
    said = jobs.slurm("report", str(folder)).stdout
    rows = _points(folder)
    assert [row["state"] for row in rows] == ["done", "done", "failed", "done"], said
    assert [row["values"]["distill.codebook_size"] for row in rows] == ["8", "16", "1000000", "32"]
    assert "got 1000000, more than the" in rows[2]["error"]
    found = [row["metrics"]["loss/total"] for row in rows]
    assert found[2] is None
    assert len(set(found)) == 4
    assert _most_at_once(folder, 4) == 2
    assert len(load_attempts(folder, 2).starts) == 1
    assert Image.open(folder / "report.png").size == (760, 440)
    assert (folder / "report.html").read_text().count("<circle") == 3
    assert _hparams(folder / "points" / rows[0]["name"] / "tensorboard") == {"distill.codebook_size": 8.0}


def _points(folder: Path) -> list[dict]:
    return json.loads((folder / "report.json").read_text())["points"]


def _most_at_once(folder: Path, elements: int) -> int:
    spans = [load_attempts(folder, i).starts[0] for i in range(elements)]
    return max(sum(one.began <= other.began < (one.ended or 0.0) for one in spans) for other in spans)


def _hparams(directory: Path) -> dict[str, float]:
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    content = accumulator.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    info = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    return {name: value.number_value for name, value in info.hparams.items()}
