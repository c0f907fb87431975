"""The benchmark of every stage at tiny size on the CPU, and its command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.dist import CPU_ZERO3, on_ranks
from tests.helpers.paths import ROOT
from trainer.bench.measure import measure
from trainer.bench.settings import BenchSettings

PARTS = {
    "distill": {"teacher forward", "student forward", "loss forward", "loss backward", "student backward"},
    "distill, cached": {"student forward", "loss forward", "loss backward", "student backward"},
    "align": {"vision forward", "language forward", "loss forward", "loss backward", "language backward"},
    "finetune": {"vision forward", "language forward", "language backward", "projector backward", "vision backward"},
}
PARTS |= {f"{name}, stock": PARTS[name] for name in ("align", "finetune")}


def test_the_command_reads_made_frames_as_training_does_and_prints_a_table(tmp_path):
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "trainer.bench", "--preset", "tiny", "--stage", "align", "--out", str(out)]
    sizes = [
        "--tokens",
        "600",
        "--tiles",
        "26",
        "--steps",
        "2",
        "--warmup",
        "1",
        "--make-frames",
        "3",
        "--workers",
        "1",
    ]
    done = subprocess.run([*command, *sizes], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(out.read_text())
    assert "3 frames, read, decoded and tiled by 1 workers" in figures["data"]
    assert figures["tiles_per_s"] > 0
    assert figures["seconds"]["data wait"]["median"] > 0
    assert "kernels: plain" in done.stdout
    assert "checkpointed layers: vision 0 of 4, language 0 of 4;" in done.stdout
    assert "optimiser: AdamW plain" in done.stdout
    assert "data wait" in done.stdout


def measured(ranks, name, directory):
    settings = BenchSettings(
        preset="tiny",
        stage=name.partition(",")[0],
        cached=name.endswith("cached"),
        stock=name.endswith("stock"),
        questions_per_visit=1 if name.endswith("stock") else 32,
        ds_config=CPU_ZERO3,
        tokens=600,
        tiles=26,
        steps=3,
        warmup=1,
        peak_tflops=1.0,
    )
    (Path(directory) / "figures.json").write_text(json.dumps(measure(settings, ranks, Path(directory))))


@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_tiny_stage_is_measured_part_by_part(name, tmp_path):
    on_ranks(measured, name, str(tmp_path), world=1)
    figures = json.loads((tmp_path / "figures.json").read_text())
    parts = figures["seconds"]
    assert PARTS[name] | {"optimiser", "step", "data wait", "communication"} <= set(parts)
    assert all(0 <= values["p10"] <= values["median"] <= values["p90"] for values in parts.values())
    assert sum(figures["shares"].values()) == pytest.approx(1, abs=1e-9)
    assert 0 <= figures["unaccounted"] < 0.1
    assert 0 < figures["shares"]["data wait"] < 1
    assert figures["tiles_per_s"] > 0
    assert sum(figures["flop_shares"].values()) == pytest.approx(0 if name.startswith("distill") else 1)
    assert 0 < figures["useful_mfu"] < 1
    assert figures["memory"]["estimated"]["peak"] > 0
    assert ("vision backward" in parts) == name.startswith("finetune")
    assert (figures["questions_per_s"] > 0) == (not name.startswith("distill"))
    assert (figures["teacher_mfu"] is not None) == (name == "distill")
