"""The predicted scaling against arithmetic by hand, and measurements in their column."""

import json

import pytest

from benchmarks.scaling import CONFIGS, Cluster, Work, measured, predicted, table

WORK = Work(flops=100e12, questions=90, parameters=2_000_000_000)
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
