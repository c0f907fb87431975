"""The predicted scaling against arithmetic by hand, and measurements in their column."""

import json
from dataclasses import replace

import pytest

from benchmarks.scaling import CONFIGS, Cluster, Work, _parser, measured, predicted, table, work_of

WORK = Work(flops=100e12, questions=90, tiles=40, parameters=2_000_000_000)
CLUSTER = Cluster(peak_tflops=1000.0, mfu=0.5, inside=400.0, between=50.0, efficiency=1.0)


def test_one_gpu_only_computes():
    alone = predicted(WORK, CLUSTER, 3, 1)
    assert alone["computing"] == alone["apart"] == alone["beside"] == pytest.approx(0.2)
    assert alone["communication"] == 0
    assert alone["efficiency_apart"] == 1


def test_communication_is_volume_over_the_slowest_link():
    node = predicted(WORK, CLUSTER, CONFIGS["zero1"], 8)
    assert node["communication"] == pytest.approx(2 * 2e9 * 2 * 7 / 8 / 400e9)
    far = predicted(WORK, CLUSTER, CONFIGS["zero3"], 64)
    assert far["communication"] == pytest.approx(2 * 2e9 * 3 * 63 / 64 / 50e9)
    assert far["apart"] == pytest.approx(0.2 * 1.015 + far["communication"])
    assert far["beside"] == pytest.approx(max(0.2 * 1.015, far["communication"]))


def test_measured_steps_stand_in_their_rows(tmp_path):
    figures = {"settings": {"ds_config": "ds_configs/zero3.json"}, "world_size": 4, "median_step_seconds": 0.4321}
    (tmp_path / "zero3-4.json").write_text(json.dumps(figures))
    rows = [line for line in table(WORK, CLUSTER, measured(tmp_path)).splitlines() if "0.432" in line]
    assert len(rows) == 1
    assert rows[0].startswith("| zero3 | 4 |")


def test_a_stage_without_questions_is_rated_by_its_tiles():
    assert "| questions/s |" in table(WORK, CLUSTER, {})
    shown = table(replace(WORK, questions=0), CLUSTER, {})
    assert "40 tiles a pack" in shown
    assert "| tiles/s |" in shown
    assert "| zero1 | 1 | 0.000 | 0.200 | 0.200 | 100.0% to 100.0% | 200 to 200 | - |" in shown


def test_packs_of_distillation_hold_tiles_and_no_questions():
    work = work_of(_parser().parse_args(["--preset", "tiny", "--stage", "distill"]))
    assert work.questions == 0
    assert work.counted == (work.tiles, "tiles")
    assert work.tiles > 0
