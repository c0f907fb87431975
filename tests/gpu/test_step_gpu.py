"""A full-size step on a GPU: its peak against the estimate, and no wait of the host in it; run where there is a GPU of
40 GiB or more: `python -m pytest tests/gpu/test_step_gpu.py`.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from models.vision import normalise_tiles
from tests.helpers.paths import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch sees none"),
]


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_the_peak_is_within_a_tenth_of_the_estimate_and_below_it(stage, tmp_path):
    gib = torch.cuda.get_device_properties(0).total_memory / 2**30 - 1
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "trainer.bench", "--stage", stage, "--gpu-memory", f"{gib:.1f}", "--out", str(out)]
    sizes = ["--tokens", "8192", "--tiles", "26", "--steps", "3", "--warmup", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    done = subprocess.run([*command, *sizes], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    memory = json.loads(out.read_text())["memory"]
    assert 0.9 <= memory["measured_peak"] / memory["estimated"]["peak"] <= 1.0


def test_tiles_are_normalised_without_a_wait():
    tiles = torch.randint(0, 256, (4, 448, 448, 3), dtype=torch.uint8).pin_memory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        pixels = normalise_tiles(tiles.to("cuda", non_blocking=True), torch.bfloat16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert pixels.shape == (4, 3, 448, 448)
