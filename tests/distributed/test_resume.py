"""Checkpoints on two ranks under ZeRO-3: resumed runs are bit-identical, damaged checkpoints are refused."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from models.vlm import load_vision
from tests.helpers.dist import launcher, losses, on_ranks, start_ranks, wait_ranks
from tests.helpers.forked import fork_ranks, join_ranks, train
from tests.helpers.paths import ROOT
from tests.helpers.stages import write_recipe
from tests.helpers.waiting import TIMEOUT_S, wait_until
from trainer.resume import StoredCheckpoints

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def straight(world: Path) -> Path:
    """Six steps with DropPath, saved after the second and the fourth."""
    run_dir = world / "straight"
    train(["--recipe", str(_recipe(world, run_dir))])
    return run_dir


def _recipe(world: Path, run_dir: Path, **changes: object) -> Path:
    settings = {
        "steps": 6,
        "checkpoint_every": 2,
        "keep": 3,
        "sample_log": True,
        "model": {"drop_path": 0.3, "checkpointing": {"vision": "auto", "gpu_gib": 80.0}},
        "batch": {"micro_batches": 2},
    }
    return write_recipe(world, "distill", run_dir, **(settings | changes))


def _weights(run_dir: Path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in load_file(run_dir / "model" / "model.safetensors").items()}


def _copy(straight: Path, to: Path, step: int, *, settings: bool = False) -> Path:
    shutil.copytree(straight / "checkpoints" / f"step-{step:06d}", to / "checkpoints" / f"step-{step:06d}")
    for name in ("codebook.safetensors", *(("recipe.yaml", "environment.json") if settings else ())):
        shutil.copy(straight / name, to)
    return to


def test_resumed_run_has_the_same_losses_and_weights(world, straight):
    resumed = _copy(straight, world / "resumed", 2)
    output = train(["--recipe", str(_recipe(world, resumed))])
    assert "continuing after step 2" in output
    expected = {step: loss for step, loss in losses(straight).items() if step > 2}
    assert losses(resumed) == expected
    assert len(set(expected.values())) == 4
    assert _weights(resumed) == _weights(straight)


def _checkpoint_model(run_dir: Path, which: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "trainer.checkpoint_model", str(run_dir), which]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def test_the_model_of_a_checkpoint_is_the_one_that_training_had_then(world, straight):
    run_dir = _copy(straight, world / "models", 2)
    for name in ("ds_config.json", "checkpoints/step-000006"):
        copy = shutil.copytree if (straight / name).is_dir() else shutil.copy
        copy(straight / name, run_dir / name)
    (run_dir / "checkpoints" / "latest").write_text("step-000006\n")
    for which in ("latest", "step-000002"):
        done = _checkpoint_model(run_dir, which)
        assert done.returncode == 0, done.stderr
    assert _weights(run_dir / "models" / "step-000006") == _weights(straight)
    assert _weights(run_dir / "models" / "step-000002") != _weights(straight)
    assert (run_dir / "models" / "step-000002" / "recipe.yaml").is_file()
    assert load_vision(run_dir / "models" / "step-000002" / "model").config.num_hidden_layers > 0


def test_a_checkpoint_that_is_not_there_or_damaged_gives_no_model(world, straight):
    run_dir = _copy(straight, world / "no-models", 2)
    shutil.copy(straight / "ds_config.json", run_dir)
    done = _checkpoint_model(run_dir, "best")
    assert done.returncode == 2
    assert "got no checkpoint 'best', expected one of step-000002; `best` is kept where" in done.stderr
    file = run_dir / "checkpoints" / "step-000002" / "rank-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    done = _checkpoint_model(run_dir, "step-000002")
    assert done.returncode == 2
    assert "rank-00001.safetensors: got" in done.stderr
    assert not (run_dir / "models").exists()


def test_same_seed_gives_the_same_losses_and_another_seed_others(world, straight):
    again, other = world / "again", world / "other"
    train(["--recipe", str(_recipe(world, again))])
    train(["--recipe", str(_recipe(world, other, seed=8, steps=2, checkpoint_every=0))])
    assert losses(again) == losses(straight)
    assert _weights(again) == _weights(straight)
    assert losses(other)[1] != losses(straight)[1]


def test_a_run_goes_on_at_another_number_of_ranks_in_the_same_order(world, straight):
    """Two ranks, one, two: each time from the checkpoint after two more steps, with the packs a step kept at four."""
    alone = _copy(straight, world / "alone", 2, settings=True)
    log = world / "alone.log"
    recipe = _recipe(world, alone, batch={"micro_batches": 4})
    assert join_ranks(fork_ranks(["--recipe", str(recipe)], log, world=1)) == [0], log.read_text()
    assert "written by 2 ranks, and is continued by 1" in log.read_text()
    pair = _copy(alone, world / "pair", 4, settings=True)
    assert join_ranks(fork_ranks(["--recipe", str(_recipe(world, pair))], log)) == [0, 0], log.read_text()
    expected = _order(straight)
    assert sorted(expected) == [1, 2, 3, 4, 5, 6]
    assert _order(alone) == {step: expected[step] for step in (3, 4, 5, 6)}
    assert _order(pair) == {step: expected[step] for step in (5, 6)}
    for run_dir in (alone, pair):
        assert losses(run_dir) == pytest.approx({s: losses(straight)[s] for s in losses(run_dir)}, abs=0.02)


def test_a_run_is_not_continued_with_another_codebook_of_its_own(world, straight):
    run_dir = _copy(straight, world / "other-codebook", 2)
    file = run_dir / "codebook.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    log = world / "other-codebook.log"
    recipe = _recipe(world, run_dir, batch={"micro_batches": 4})
    assert join_ranks(fork_ranks(["--recipe", str(recipe)], log, world=1)) == [2], log.read_text()
    assert f"distill.codebook: trained with {straight} of sha256" in log.read_text()


def _order(run_dir: Path) -> dict[int, list]:
    """Questions of each step, pack by pack in the order of the plan."""
    ranks = [path.read_text().splitlines() for path in sorted((run_dir / "samples").glob("rank-*.jsonl"))]
    order = {}
    for lines in zip(*ranks, strict=True):
        records = [json.loads(line) for line in lines]
        packs = zip(*(record["micro_batches"] for record in records), strict=True)
        order[records[0]["step"]] = [pack for of_all_ranks in packs for pack in of_all_ranks]
    return order


def test_every_damaged_file_of_two_ranks_is_refused_by_name_and_the_former_checkpoint_used(world, straight):
    root = shutil.copytree(straight / "checkpoints", world / "flipped")
    shutil.rmtree(root / "step-000006")
    on_ranks(_flip_each_file, root)


def _flip_each_file(ranks, root: Path) -> None:
    said: list[str] = []
    stored = StoredCheckpoints(root=root, ranks=ranks, say=said.append)
    newest, former = root / "step-000004", root / "step-000002"
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    assert [path.name for path in files if path.name.startswith("rank-")] == [
        "rank-00000.safetensors",
        "rank-00001.safetensors",
    ]
    assert len(files) == 7
    for i, path in enumerate(files):
        whole = path.read_bytes()
        ranks.on_main(lambda path=path, whole=whole, i=i: path.write_bytes(_flipped(whole, seed=i)))
        said.clear()
        assert stored.find() == former, path
        assert str(path) in said[0]
        ranks.on_main(lambda path=path, whole=whole: path.write_bytes(whole))
    assert stored.find() == newest


def _flipped(content: bytes, seed: int) -> bytes:
    bit = random.Random(seed).randrange(len(content) * 8)
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def test_damaged_checkpoint_is_refused_by_name_and_the_one_before_used(world, straight):
    run_dir = _copy(_copy_base(straight, world / "damaged"), world / "damaged", 4)
    victim = max((run_dir / "checkpoints" / "step-000004").rglob("rank-*.safetensors"))
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
    wait_until(lambda: (run_dir / "metrics.jsonl").is_file() and bool(losses(run_dir)))
    stop(ranks)
    statuses, output = wait_ranks(ranks)
    assert statuses == [75, 75], output
    return output


def test_terminating_a_rank_with_its_data_workers_still_saves(world):
    run_dir = world / "terminated"
    recipe = _recipe(world, run_dir, checkpoint_every=0, steps=4000, data={"workers": 1})

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
        wait_until(lambda: (run_dir / "metrics.jsonl").is_file() and bool(losses(run_dir)))
        started = psutil.Process(command.pid).children(recursive=True)
        command.kill()
    _, alive = psutil.wait_procs(started, timeout=TIMEOUT_S)
    assert not alive
    assert list((run_dir / "checkpoints").glob("step-*/manifest.txt"))
