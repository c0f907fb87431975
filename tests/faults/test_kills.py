"""Two ranks under ZeRO-3, killed and stopped at random moments: a run ends with the bits of an undisturbed one."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.helpers.dist import losses
from tests.helpers.forked import fork_ranks, join_ranks
from tests.helpers.kills import last_step, remains, train_with_kills
from tests.helpers.stages import make_world, write_recipe
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.distributed

STAGES = ("distill", "align", "finetune")
SHORT, LONG = 2, 34


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and models, and an aligned model for the last stage."""
    root = make_world(tmp_path_factory.mktemp("kills"))
    run_to_end(recipe_of(root, "align", "align", steps=1))
    return root


def recipe_of(root: Path, stage: str, name: str, steps: int, **changes: object) -> Path:
    """The smallest steps there are: one tile a frame, few tokens."""
    settings: dict = {
        "steps": steps,
        "checkpoint_every": 2,
        "sample_log": True,
        "model": {} if stage == "align" else {"drop_path": 0.2},
        "data": {
            "view": {"tile_size": 112, "mode": "canvas", "dynamic_resolution": False},
            "max_tiles": 2,
            "max_tokens": 250,
            "questions_per_visit": 2,
        },
        "distill": {"codebook_size": 8, "codebook_tiles": 4, "last_k": 1},
    }
    return write_recipe(root, stage, root / name, **(settings | changes))


def run_to_end(recipe: Path) -> None:
    log = recipe.with_suffix(".log")
    assert join_ranks(fork_ranks(["--recipe", str(recipe)], log)) == [0, 0], log.read_text()[-4000:]


def check_kills(world: Path, stage: str, kills: int, steps: int) -> None:
    straight, killed = world / f"{stage}-straight-{kills}", world / f"{stage}-killed-{kills}"
    run_to_end(recipe_of(world, stage, straight.name, steps))
    done = train_with_kills(recipe_of(world, stage, killed.name, steps), killed, kills, seed=kills)
    print(json.dumps({"stage": stage, "steps": steps, "kills": done.count, **vars(done)}))
    assert done.count == kills
    expected = remains(straight)
    assert len(expected) == 6
    assert len((straight / "samples" / "rank-00001.jsonl").read_text().splitlines()) == steps
    assert remains(killed) == expected
    assert losses(killed) == losses(straight)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_killed_ends_with_the_same_bits(world, stage):
    check_kills(world, stage, SHORT, steps=10)


@pytest.mark.torture
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_killed_34_times_ends_with_the_same_bits(world, stage):
    check_kills(world, stage, LONG, steps=80)


def test_any_stop_signal_on_any_rank_saves_on_all_and_exits_with_75(world):
    run_dir = world / "signalled"
    recipe = recipe_of(world, "align", run_dir.name, 4000, checkpoint_every=0)
    log = run_dir.with_suffix(".log")
    for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
        for rank in (0, 1):
            reached = last_step(run_dir)
            ranks = fork_ranks(["--recipe", str(recipe)], log)
            wait_until(lambda reached=reached: last_step(run_dir) > reached)
            os.kill(ranks[rank].pid, signal.Signals[name])
            assert join_ranks(ranks) == [75, 75], log.read_text()[-4000:]
            latest = run_dir / "checkpoints" / (run_dir / "checkpoints" / "latest").read_text().strip()
            assert json.loads((latest / "state.json").read_text())["state"]["step"] == last_step(run_dir)
    steps = [json.loads(line)["step"] for line in (run_dir / "samples" / "rank-00001.jsonl").read_text().splitlines()]
    assert steps == list(range(1, last_step(run_dir) + 1))


def test_a_rank_that_cannot_write_does_not_end_the_run_but_a_stop_without_checkpoint_fails(world):
    """The limit on one rank's file size stands for its full disk: it is there, lifted, and there again."""
    run_dir = world / "full"
    recipe = recipe_of(world, "align", run_dir.name, 4000, checkpoint_every=1, sample_log=False)
    log = run_dir.with_suffix(".log")
    ranks = fork_ranks(["--recipe", str(recipe)], log)
    second = psutil.Process(ranks[1].pid)
    tiny, whole = (1000, psutil.RLIM_INFINITY), (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY)
    wait_until(lambda: (run_dir / "checkpoints" / "latest").is_file())
    second.rlimit(psutil.RLIMIT_FSIZE, tiny)
    wait_until(lambda: log.read_text().count("was not written: rank 1:") > 1)
    good = (run_dir / "checkpoints" / "latest").read_text()
    second.rlimit(psutil.RLIMIT_FSIZE, whole)
    wait_until(lambda: (run_dir / "checkpoints" / "latest").read_text() != good)
    second.rlimit(psutil.RLIMIT_FSIZE, tiny)
    failures = log.read_text().count("was not written")
    wait_until(lambda: log.read_text().count("was not written") > failures)
    os.kill(ranks[0].pid, signal.SIGTERM)
    assert join_ranks(ranks) == [1, 1], log.read_text()[-4000:]
    assert "which could not be written" in log.read_text()
    newest = (run_dir / "checkpoints" / "latest").read_text().strip()
    assert f"the newest checkpoint is {run_dir / 'checkpoints' / newest}" in log.read_text()


def test_a_full_disk_ends_no_rank_and_no_line_is_missing_after_it(world):
    """No file of either rank may grow for some steps: checkpoints, metrics, samples, the output that tells of it."""
    run_dir = world / "crowded"
    recipe = recipe_of(world, "align", run_dir.name, 40)
    log = run_dir.with_suffix(".log")
    ranks = fork_ranks(["--recipe", str(recipe)], log)
    processes = [psutil.Process(rank.pid) for rank in ranks]
    wait_until(lambda: last_step(run_dir) >= 4)
    for limit in (0, psutil.RLIM_INFINITY):
        for process in processes:
            process.suspend()
        reached = last_step(run_dir)
        for process in processes:
            process.rlimit(psutil.RLIMIT_FSIZE, (limit, psutil.RLIM_INFINITY))
            process.resume()
        if not limit:
            tried = [run_dir / "checkpoints" / f"step-{step:06d}.partial" for step in range(reached + 6, 40)]
            wait_until(lambda tried=tried: any(path.exists() for path in tried))
            assert last_step(run_dir) < reached + 6
    assert join_ranks(ranks) == [0, 0], log.read_text()[-4000:]
    assert sorted(losses(run_dir)) == list(range(1, 41))
    for rank in (0, 1):
        lines = (run_dir / "samples" / f"rank-0000{rank}.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-000040\n"
    assert f"{run_dir / 'metrics.jsonl'} is written again" in log.read_text()
