"""One srun task in, one rank out: sets torch.distributed's environment, runs the command, passes signals on.

submitit calls `Task` on every task; how it ended is left in a record for `slurm.batch end`, which decides what follows.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from submitit.helpers import JobEnvironment

from slurm.attempts import STOPPED_STATUS, TaskRecord, attempt_folder, save_record
from slurm.batch import ATTEMPT_VARIABLE
from slurm.progress import last_sign_of_life
from slurm.spec import JobSpec, Work, load_spec

STOP_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
POLL_S, RESEND_S, LOOK_S = 0.1, 1.0, 300.0
FIRST_PORT, NUM_PORTS = 15_000, 15_000  # below the ports that systems give to outgoing connections
_LAUNCHER_VARIABLES = ("LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "GROUP_RANK", "DS_ACCELERATOR")
_TAIL_BYTES = 1 << 14
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Task:
    """What submitit stores and calls: where the job folder is, and which element this is."""

    folder: Path
    index: int

    def __call__(self) -> None:
        """Run this rank; leaves with status 1 on a crash, so that srun ends the other ranks.

        A rank that saved leaves with 0 as one that is done: srun would kill the ranks that are still writing.
        """
        record = run_rank(self.folder, self.index)
        if record.status not in (0, STOPPED_STATUS):
            sys.exit(1)


@dataclass(frozen=True, kw_only=True)
class RankPlace:
    """This task among all, by SLURM's environment."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    master: str
    port: int


def run_rank(folder: Path, index: int) -> TaskRecord:
    """Run the command of an element as this task's rank, and write its record."""
    spec, number = load_spec(folder), int(os.environ[ATTEMPT_VARIABLE])
    work, place = spec.works[index], rank_place(os.environ, JobEnvironment().hostnames[0], number)
    directory = attempt_folder(folder, index, number)
    log = directory / f"task-{place.rank:04d}.log"
    status, signals, hung = _run(
        spec, work, rank_environment(place, os.environ, on_cpu=spec.on_cpu), log, watch=place.rank == 0
    )
    record = TaskRecord(
        rank=place.rank,
        host=os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        status=_status(work, status, signals),
        signals=tuple(signals),
        reason=hung or ("" if status in (0, STOPPED_STATUS) else last_words(log)),
        ended=time.time(),
        blames_node=not hung,
    )
    save_record(directory, record)
    print(f"rank {place.rank}: {work.name}: status {status}; log {log}", flush=True)
    return record


def rank_place(environment: Mapping[str, str], first_host: str, attempt: int) -> RankPlace:
    """Ranks from SLURM's variables.

    The port depends on job and start, so that neither jobs that share a node nor a requeued one meet a port in use. The
    address is the first node's name, or, where names of nodes are not resolved, what srun calls its own address.
    """
    tasks, nodes = int(environment["SLURM_NTASKS"]), int(environment["SLURM_JOB_NUM_NODES"])
    return RankPlace(
        rank=int(environment["SLURM_PROCID"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        world_size=tasks,
        local_world_size=tasks // nodes,
        master=first_host if _resolves(first_host) else environment.get("SLURM_LAUNCH_NODE_IPADDR", first_host),
        port=FIRST_PORT + (int(environment["SLURM_JOB_ID"]) * 101 + attempt * 7) % NUM_PORTS,
    )


def rank_environment(place: RankPlace, inherited: Mapping[str, str], *, on_cpu: bool = False) -> dict[str, str]:
    """The environment of a rank: what torch.distributed reads, as many threads as SLURM gives it cores, and whether the
    CPU is wanted."""
    environment = {name: value for name, value in inherited.items() if name not in _LAUNCHER_VARIABLES}
    visible = inherited.get("CUDA_VISIBLE_DEVICES", "")
    alone = visible != "" and "," not in visible
    environment |= {
        "RANK": str(place.rank),
        "LOCAL_RANK": "0" if alone else str(place.local_rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "MASTER_ADDR": place.master,
        "MASTER_PORT": str(place.port),
    }
    if on_cpu:
        environment["DS_ACCELERATOR"] = "cpu"
    if "SLURM_CPUS_PER_TASK" in inherited:
        environment.setdefault("OMP_NUM_THREADS", inherited["SLURM_CPUS_PER_TASK"])
    return environment


def last_words(log: Path) -> str:
    """The last line of a log that names an error, else its last line."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.split("\r")[-1].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if line.startswith("error:") or _names_an_exception(line)]
    return (errors or lines or [""])[-1][:500]


def _names_an_exception(line: str) -> bool:
    name = line.partition(":")[0]
    return name.endswith(("Error", "Exception", "Interrupt")) and " " not in name


def _run(
    spec: JobSpec, work: Work, environment: dict[str, str], log: Path, *, watch: bool
) -> tuple[int, list[str], str]:
    """Exit status, names of the signals this task was told, and why it was killed if it hung."""
    told: list[signal.Signals] = []

    def remember(number: int, frame: FrameType | None) -> None:
        told.append(signal.Signals(number))

    for number in STOP_SIGNALS:
        signal.signal(number, remember)
    command = [sys.executable, *work.command[1:]] if work.command[0] == "python" else list(work.command)
    began, sent, looked, hung = time.time(), 0.0, time.monotonic(), ""
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            cwd=spec.directory,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=partial(  # noqa: PLW1509 (no threads here)
                _prepare_training if work.is_training else _die_with_parent, os.getpid()
            ),
        )
        while child.poll() is None:
            time.sleep(POLL_S)
            if told and time.monotonic() - sent > RESEND_S:
                child.send_signal(signal.SIGUSR2 if work.is_training else signal.SIGTERM)
                sent = time.monotonic()
            if watch and spec.hang_minutes and time.monotonic() - looked > min(LOOK_S, 6 * spec.hang_minutes):
                looked, hung = time.monotonic(), _silence(spec, work, began)
                if hung:
                    child.kill()
    return child.returncode, list(dict.fromkeys(number.name for number in told)), hung


def _silence(spec: JobSpec, work: Work, began: float) -> str:
    """What has not been seen for too long; an empty text where something was, or where a command shows nothing."""
    if not work.is_training and work.progress is None:
        return ""
    if time.time() - last_sign_of_life(work, began) <= 60 * spec.hang_minutes:
        return ""
    return f"{'no step' if work.is_training else f'nothing new in {work.progress}'} for {spec.hang_minutes:g} minutes"


def _status(work: Work, status: int, signals: list[str]) -> int:
    """Commands have no status for a stop: one that fails after it was told to end was stopped, and did not crash."""
    return STOPPED_STATUS if not work.is_training and signals and status != 0 else status


def _prepare_training(parent: int) -> None:
    """Stop signals are lost until the trainer listens for them: their default would end it before it can save.

    SLURM sends them to every process of the job; this rank's task sends them again until the trainer has left.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent(parent)


def _die_with_parent(parent: int) -> None:
    """Be killed when the task is, also if it has been already: a rank that nobody watches would hold its GPU."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
