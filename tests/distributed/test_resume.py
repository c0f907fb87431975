"""Checkpoints on two ranks under ZeRO-3: resumed runs are bit-identical, damaged checkpoints are refused."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from tests.helpers.dist import TIMEOUT_S, launcher, losses, start_ranks, train, wait_ranks
from tests.helpers.stages import write_recipe

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def straight(world: Path) -> Path:
    """Six steps with DropPath, saved after the second and the fourth."""
    run_dir = world / "straight"
    train(["--recipe", str(_recipe(world, run_dir))])
    return run_dir


def _recipe(world: Path, run_dir: Path, **changes: object) -> Path:
    settings = {"steps": 6, "checkpoint_every": 2, "model": {"drop_path": 0.3}, "batch": {"micro_batches": 2}}
    return write_recipe(world, "distill", run_dir, **(settings | changes))


def _weights(run_dir: Path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in load_file(run_dir / "model" / "model.safetensors").items()}


def _copy(straight: Path, to: Path, step: int) -> Path:
    shutil.copytree(straight / "checkpoints" / f"step-{step:06d}", to / "checkpoints" / f"step-{step:06d}")
    shutil.copy(straight / "codebook.safetensors", to)
    return to


def test_resumed_run_has_the_same_losses_and_weights(world, straight):
    resumed = _copy(straight, world / "resumed", 2)
    output = train(["--recipe", str(_recipe(world, resumed))])
    assert "continuing after step 2" in output
    expected = {step: loss for step, loss in losses(straight).items() if step > 2}
    assert losses(resumed) == expected
    assert len(set(expected.values())) == 4
    assert _weights(resumed) == _weights(straight)


def test_same_seed_gives_the_same_losses_and_another_seed_others(world, straight):
    again, other = world / "again", world / "other"
    train(["--recipe", str(_recipe(world, again))])
    train(["--recipe", str(_recipe(world, other, seed=8, steps=2, checkpoint_every=0))])
    assert losses(again) == losses(straight)
    assert _weights(again) == _weights(straight)
    assert losses(other)[1] != losses(straight)[1]


def test_damaged_checkpoint_is_refused_by_name_and_the_one_before_used(world, straight):
    run_dir = _copy(_copy_base(straight, world / "damaged"), world / "damaged", 4)
    victim = max((run_dir / "checkpoints" / "step-000004").rglob("*optim_states.pt"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    output = train(["--recipe", str(_recipe(world, run_dir))])
    assert str(victim) in output
    assert "continuing after step 2" in output
    assert _weights(run_dir) == _weights(straight)


def _copy_base(straight: Path, to: Path) -> Path:
    _copy(straight, to, 2)
    (to / "codebook.safetensors").unlink()
    return straight


def _interrupt(run_dir: Path, recipe: Path, stop: Callable[[list[subprocess.Popen]], None]) -> str:
    """Start, wait for the first logged step, stop; both ranks have to save and exit with 75."""
    ranks = start_ranks(["--recipe", str(recipe)])
    _wait_until(lambda: (run_dir / "metrics.jsonl").is_file() and bool(losses(run_dir)))
    stop(ranks)
    statuses, output = wait_ranks(ranks)
    assert statuses == [75, 75], output
    return output


def test_signal_on_one_rank_saves_on_all_and_exits_with_75(world, straight):
    run_dir = world / "signalled"
    recipe = _recipe(world, run_dir, checkpoint_every=0)
    output = _interrupt(run_dir, recipe, lambda ranks: ranks[1].send_signal(signal.SIGUSR1))
    assert "stopped on a signal" in output
    assert "continuing after step" in train(["--recipe", str(recipe)])
    assert losses(run_dir) == losses(straight)
    assert _weights(run_dir) == _weights(straight)


def test_terminating_a_rank_with_its_data_workers_still_saves(world):
    run_dir = world / "terminated"
    recipe = _recipe(world, run_dir, checkpoint_every=0, steps=40, data={"workers": 1})

    def terminate(ranks: list[subprocess.Popen]) -> None:
        process = psutil.Process(ranks[0].pid)
        workers = process.children()
        assert workers
        for one in (*workers, process):
            one.terminate()

    assert "stopped on a signal" in _interrupt(run_dir, recipe, terminate)


def test_ranks_whose_deepspeed_command_was_killed_save_and_stop(world):
    run_dir = world / "orphaned"
    recipe = _recipe(world, run_dir, checkpoint_every=0, steps=4000)
    with launcher(["--recipe", str(recipe)]) as command:
        _wait_until(lambda: (run_dir / "metrics.jsonl").is_file() and bool(losses(run_dir)))
        started = psutil.Process(command.pid).children(recursive=True)
        command.kill()
    _, alive = psutil.wait_procs(started, timeout=TIMEOUT_S)
    assert not alive
    assert list((run_dir / "checkpoints").glob("step-*/manifest.txt"))


def _wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
