"""Training in float16 on two ranks under ZeRO-3: the loss scale finds its place, and resumed runs are bit-identical."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.helpers.dist import CPU_ZERO3, losses
from tests.helpers.forked import train
from tests.helpers.stages import write_recipe

pytestmark = pytest.mark.distributed

POWER = 24
"""Of two: a loss scale at which gradients overflow. DeepSpeed halves it until they do not."""


@pytest.fixture(scope="module")
def straight(world: Path) -> Path:
    """Twelve steps, saved after the tenth."""
    config = json.loads(CPU_ZERO3.read_text())
    config["fp16"] = {"enabled": True, "initial_scale_power": POWER, "hysteresis": 1}
    (world / "float16.json").write_text(json.dumps(config))
    run_dir = world / "float16"
    train(_arguments(world, run_dir))
    return run_dir


def _arguments(world: Path, run_dir: Path) -> list[str]:
    recipe = write_recipe(world, "distill", run_dir, steps=12, checkpoint_every=10)
    return ["--ds_config", str(world / "float16.json"), "--recipe", str(recipe)]


def test_steps_are_left_out_until_the_loss_scale_fits_and_then_it_learns(straight):
    left_out = [json.loads(line)["step"] for line in (straight / "skipped.jsonl").read_text().splitlines()]
    assert left_out == list(range(1, len(left_out) + 1))
    assert 2 <= len(left_out) <= 9
    taken = losses(straight)
    assert set(taken) == set(range(len(left_out) + 1, 13))
    assert taken[12] < 0.9 * taken[len(left_out) + 1]


def test_a_run_goes_on_with_its_loss_scale_to_the_same_weights(world, straight):
    resumed = world / "float16-resumed"
    shutil.copytree(straight / "checkpoints" / "step-000010", resumed / "checkpoints" / "step-000010")
    shutil.copy(straight / "codebook.safetensors", resumed)
    assert "continuing after step 10" in train(_arguments(world, resumed))
    assert losses(resumed) == {step: loss for step, loss in losses(straight).items() if step > 10}
    own, wanted = (load_file(run / "model" / "model.safetensors") for run in (resumed, straight))
    assert own.keys() == wanted.keys()
    assert all(own[name].equal(wanted[name]) for name in wanted)
