"""Two ranks for tests: started as SLURM would, through the deepspeed launcher, or as functions of this test process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from tests.helpers.paths import ROOT
from tests.helpers.waiting import TIMEOUT_S
from trainer import dist

CPU_ZERO3 = ROOT / "ds_configs" / "cpu_zero3.json"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_ranks(
    arguments: Sequence[str], world: int = 2, port: int | None = None, *, script: Sequence[str] = ("trainer/run.py",)
) -> list[subprocess.Popen]:
    """`trainer/run.py` (or a script that stands for it, with its own arguments first) once a rank, with the environment
    that a SLURM task has; output is merged and piped."""
    port = port or free_port()
    path, *own = script
    command = [sys.executable, str(ROOT / path), *own, "--ds_config", str(CPU_ZERO3), *arguments]
    return [
        subprocess.Popen(
            command,
            env=_environment()
            | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def wait_ranks(ranks: list[subprocess.Popen]) -> tuple[list[int], str]:
    """Exit statuses, and all output, rank after rank."""
    try:
        output = [rank.communicate(timeout=TIMEOUT_S)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [rank.returncode for rank in ranks], "\n".join(output)


def launch(arguments: Sequence[str], world: int = 2) -> subprocess.CompletedProcess:
    """The command a user types: the deepspeed launcher with two ranks, no environment set."""
    with launcher(arguments, world) as process:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def launcher(arguments: Sequence[str], world: int = 2) -> subprocess.Popen:
    """The same command, started and not waited for."""
    deepspeed = Path(sys.executable).with_name("deepspeed")
    command = [str(deepspeed), "--num_gpus", str(world), "--master_port", str(free_port()), "trainer/run.py"]
    return subprocess.Popen(
        [*command, "--ds_config", str(CPU_ZERO3), *arguments],
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def on_ranks(function: Callable[..., Any], *arguments: Any, world: int = 2) -> None:
    """Call `function(ranks, *arguments)` in `world` processes that form a process group.

    They are forked from one that has imported everything, so that only the first call waits for that.
    """
    mp.get_context("forkserver").set_forkserver_preload(["tests.helpers.rank_main"])
    mp.start_processes(_in_group, (world, free_port(), function, arguments), nprocs=world, start_method="forkserver")


def on_fresh_ranks(function: Callable[..., Any], *arguments: Any, world: int = 2) -> None:
    """As `on_ranks`, in new processes, which have used no memory yet."""
    mp.spawn(_in_group, (world, free_port(), function, arguments), nprocs=world)


def losses(run_dir: Path) -> dict[int, float]:
    """Loss by step, as logged with `log_every: 1`; a line that is being written is none."""
    lines = (run_dir / "metrics.jsonl").read_text().split("\n")[:-1]
    records = map(json.loads, lines)
    return {record["step"]: record["loss/total"] for record in records if "loss/total" in record}


def _in_group(rank: int, world: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        DS_ACCELERATOR="cpu",
    )
    torch.set_num_threads(1)
    ranks = dist.init()
    function(ranks, *arguments)
    ranks.sum([0.0])
    # Leave together and at once: torch's communication threads can abort a process whose interpreter is torn down.
    os._exit(0)


def _environment() -> dict[str, str]:
    """This process's environment without anything a launcher or another test may have left in it; where there is a GPU
    it says that the CPU is wanted."""
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR", "OMP_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    return {**inherited, "DS_ACCELERATOR": "cpu"} if torch.cuda.is_available() else inherited
