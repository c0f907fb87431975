"""A recipe in, how often it was killed out: starts a run again and again, and kills a rank at random moments."""

import json
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from tests.helpers.dist import losses
from tests.helpers.forked import fork_ranks, join_ranks
from tests.helpers.waiting import wait_until
from trainer.checkpoint_files import checkpoints_in

START_CPU_S, STEP_S, SAVE_S = 2.0, 0.3, 0.02
"""How long they take about: a start in seconds of processor time, a step and a save in seconds."""
MOMENTS = ("start", "step", "save")
"""While the run starts or resumes; in a step; while a checkpoint is written."""


@dataclass(kw_only=True)
class Kills:
    """What happened: kills in all, by the moment aimed at, and those that left a checkpoint half written."""

    aimed: dict[str, int]
    half_saves: int = 0
    starts: int = 0

    @property
    def count(self) -> int:
        return sum(self.aimed.values())


def train_with_kills(recipe: Path, run_dir: Path, kills: int, seed: int) -> Kills:
    """Run a recipe on two ranks, kill -9 a random one `kills` times at random moments, and let it end."""
    rng = random.Random(seed)
    done = Kills(aimed=dict.fromkeys(MOMENTS, 0))
    log = run_dir.with_suffix(".log")
    while done.count < kills:
        ranks = fork_ranks(["--recipe", str(recipe)], log)
        done.starts += 1
        moment = MOMENTS[done.starts % len(MOMENTS)]
        _await(moment, rng, run_dir, ranks)
        rng.choice(ranks).kill()
        statuses = join_ranks(ranks)
        if (run_dir / "summary.json").is_file():  # the kill came too late: all of it once more
            assert done.starts < 3 * kills, f"runs end before they are killed: {log.read_text()[-2000:]}"
            shutil.rmtree(run_dir)
            done.aimed, done.half_saves = dict.fromkeys(MOMENTS, 0), 0
            continue
        assert 0 not in statuses, "a rank went on to the end without the other"
        done.aimed[moment] += 1
        done.half_saves += moment != "start" and bool(_partials(run_dir))
    statuses = join_ranks(fork_ranks(["--recipe", str(recipe)], log))
    assert statuses == [0, 0], log.read_text()[-4000:]
    return done


def _await(moment: str, rng: random.Random, run_dir: Path, ranks: Sequence[BaseProcess]) -> None:
    """A random moment of a kind; a start takes about as many seconds of processor time as are waited for at most."""
    if moment == "start":
        began = psutil.Process(ranks[0].pid)
        share = rng.uniform(0.0, START_CPU_S)
        wait_until(lambda: sum(began.cpu_times()[:2]) > share)
    elif moment == "step":
        reached = last_step(run_dir)
        wait_until(lambda: last_step(run_dir) > reached or not ranks[0].is_alive())
        time.sleep(rng.uniform(0.0, STEP_S))
    else:
        wait_until(lambda: not _partials(run_dir))  # what the last kill left is cleared away first
        wait_until(lambda: bool(_partials(run_dir)) or not ranks[0].is_alive())
        time.sleep(rng.uniform(0.0, SAVE_S))


def last_step(run_dir: Path) -> int:
    """Newest logged step, with `log_every: 1`; 0 for none."""
    try:
        return max(losses(run_dir), default=0)
    except (OSError, json.JSONDecodeError):
        return 0


def remains(run_dir: Path) -> dict[str, bytes]:
    """What has to be the same, bit for bit: the model, the newest checkpoint's tensors and counters, all samples."""
    newest = checkpoints_in(run_dir / "checkpoints")[0]
    files = [run_dir / "model" / "model.safetensors", newest / "engine.json", *newest.glob("rank-*.safetensors")]
    files += (run_dir / "samples").glob("rank-*.jsonl")
    return {str(path.relative_to(run_dir)): path.read_bytes() for path in files}


def _partials(run_dir: Path) -> list[Path]:
    return [path for path in (run_dir / "checkpoints").glob("step-*.partial") if "dropped" not in path.name]
