"""Liger's own kernels, run by triton's interpreter, against float64, stock layers and the memory estimate."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is None or importlib.util.find_spec("triton") is None,
    reason="liger-kernel or triton is not installed: pip install -r requirements-dev.txt",
)


@pytest.fixture(scope="module")
def found() -> Any:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.helpers.interpreted_liger"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-6), ("float16", 1e-3)])
def test_outputs_and_gradients_equal_float64(found, dtype, limit):
    assert set(found[dtype]) == {"rms_norm", "swiglu", "rotary"}
    assert max(found[dtype].values()) < limit


def test_a_whole_models_logits_and_gradients_are_those_of_stock_layers(found):
    apart = found["pack"]
    nothing = [name for name in apart if name.endswith("k_proj.bias")]  # a softmax does not feel them: nearly zero
    assert len(apart) > 100
    assert max(value for name, value in apart.items() if name not in nothing) < 1e-5


def test_autograd_keeps_what_the_memory_estimate_counts(found):
    assert found["kept"] == {"rms_norm": 37 * (96 * 2 + 4) + 96 * 2, "swiglu": 2 * 37 * 80 * 2}
