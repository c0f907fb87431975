"""Ranks as processes forked from one that has imported everything: many starts of a job in little time."""

import importlib
import multiprocessing as mp
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.helpers.dist import CPU_ZERO3, free_port
from tests.helpers.waiting import TIMEOUT_S

_MAIN = "tests.helpers.rank_main"


def fork_ranks(
    arguments: Sequence[str],
    log: Path,
    world: int = 2,
    config: Path = CPU_ZERO3,
    before: Callable[[int], None] | None = None,
) -> list[BaseProcess]:
    """Start `trainer/run.py` once a rank, after `before(rank)`; all output goes to the end of `log`."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([_MAIN])
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = ["--ds_config", str(config), *arguments]
    ranks: list[BaseProcess] = []
    for rank in range(world):
        environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(context.Process(target=_run, args=(environment, command, log, before)))
        ranks[-1].start()
    return ranks


def train(arguments: Sequence[str], world: int = 2) -> str:
    """Run a stage to its end, and return its output; fails the test where a rank does not exit with 0."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        statuses = join_ranks(fork_ranks(arguments, log, world))
        output = log.read_text()
    assert statuses == [0] * world, output
    return output


def join_ranks(ranks: Sequence[BaseProcess], timeout_s: float = TIMEOUT_S) -> list[int | None]:
    """Exit statuses; a rank that is not done in time is killed."""
    try:
        for rank in ranks:
            rank.join(timeout_s)
    finally:
        for rank in ranks:
            if rank.is_alive():
                rank.kill()
                rank.join()
    return [rank.exitcode for rank in ranks]


def _run(
    environment: Mapping[str, str], arguments: Sequence[str], log: Path, before: Callable[[int], None] | None
) -> None:
    if before is not None:
        before(int(environment["RANK"]))
    importlib.import_module(_MAIN).run(environment, arguments, log)
