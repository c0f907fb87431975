"""The only place that knows of ranks: set-up and teardown of the process group, and collectives on small CPU values.

Control collectives run on gloo whatever the device, so that they never wait for a GPU. Every method is called on all
ranks.
"""

import datetime
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as torch_dist

T = TypeVar("T")

TIMEOUT = datetime.timedelta(minutes=10)


class DistError(RuntimeError):
    """The ranks cannot find each other; the message says what to change."""


class MainRankError(RuntimeError):
    """The main rank failed at something it does for all; it says so itself."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among all; made by `init`.

    Attributes:
        rank, world_size: over all machines.
        local_rank: on this machine, the number of its GPU.
        control: gloo group for small values.
    """

    rank: int
    world_size: int
    local_rank: int
    control: torch_dist.ProcessGroup

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that speaks and writes."""
        return self.rank == 0

    def device(self) -> torch.device:
        """Where this rank computes."""
        return compute_device(self.local_rank)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over ranks, in float64."""
        return self._reduce(values, torch_dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Maxima over ranks, in float64."""
        return self._reduce(values, torch_dist.ReduceOp.MAX)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.max([float(flag)])[0] > 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        torch_dist.barrier(group=self.control)

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, on all ranks; small picklable ones."""
        values: list[Any] = [None] * self.world_size
        torch_dist.all_gather_object(values, value, group=self.control)
        return values

    def collect(self, piece: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks, equally shaped and on `device()`, on the main rank; nothing on the others."""
        received = [torch.empty_like(piece) for _ in range(self.world_size)] if self.is_main else None
        torch_dist.gather(piece, received, dst=0)
        return received or []

    def board(self, name: str) -> "Board":
        """Short texts of ranks that need no collective; with its own connection, for a thread of its own."""
        return Board(_store(name), self)

    def flag(self, name: str) -> "Flag":
        """What any rank puts up for all to see, without a collective."""
        return Flag(_store(f"flag {name}"))

    def on_main(self, act: Callable[[], T]) -> T:
        """Run `act` on the main rank alone; its small result comes to all ranks.

        Raises:
            MainRankError: on the other ranks, where `act` raised on the main one.
        """
        return self._share(*(_attempt(act) if self.is_main else (None, None)), with_result=True)

    def main_first(self, act: Callable[[], T]) -> T:
        """Run `act` on the main rank, then on the others, so that they find what it left on disk.

        Raises:
            MainRankError: as `on_main`.
        """
        result, error = _attempt(act) if self.is_main else (None, None)
        self._share(result, error, with_result=False)
        return result if self.is_main else act()  # type: ignore[return-value]

    def _share(self, result: Any, error: Exception | None, *, with_result: bool) -> Any:
        message: list[Any] = [result if with_result else None, None if error is None else str(error) or repr(error)]
        torch_dist.broadcast_object_list(message, src=0, group=self.control)
        if error is not None:
            raise error
        if message[1] is not None:
            raise MainRankError(message[1])
        return message[0]

    def _reduce(self, values: Sequence[float], op: Any) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64)
        torch_dist.all_reduce(tensor, op=op, group=self.control)
        return tensor.tolist()


class Board:
    """A text of each rank on the main rank's key-value store; no method waits for another rank."""

    def __init__(self, store: torch_dist.Store, ranks: Ranks) -> None:
        self._store, self._ranks = store, ranks

    def put(self, rank: int, text: str) -> None:
        """Show a rank's text in the place of its former one."""
        self._store.set(str(rank), text)

    def clear(self, rank: int) -> None:
        """Take it down."""
        self._store.delete_key(str(rank))

    def collect(self, seconds: float) -> dict[int, str] | None:
        """On the main rank the texts that are there after some seconds; elsewhere None, at once."""
        if not self._ranks.is_main:
            return None
        time.sleep(seconds)
        shown = [rank for rank in range(self._ranks.world_size) if self._store.check([str(rank)])]
        return {rank: self._store.get(str(rank)).decode() for rank in shown}


class Flag:
    """On the main rank's key-value store; it stays up."""

    def __init__(self, store: torch_dist.Store) -> None:
        self._store = store

    def put_up(self) -> None:
        """From now on `is_up` is true on every rank."""
        self._store.set("up", "")

    def is_up(self) -> bool:
        """Whether any rank has put it up."""
        return self._store.check(["up"])


def _store(name: str) -> torch_dist.Store:
    """Keys of their own, through a connection of their own."""
    store = torch_dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]  # not in the stubs
    return torch_dist.PrefixStore(name, store)


def _attempt(act: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """(result, None) or (None, error): an error on the main rank must not leave the others waiting."""
    try:
        return act(), None
    except (ValueError, OSError, RuntimeError) as error:
        return None, error


def num_gpus() -> int:
    """GPUs of this machine to compute on; none where DS_ACCELERATOR is `cpu`, which DeepSpeed heeds as well."""
    if os.environ.get("DS_ACCELERATOR") == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count()


def compute_device(local_rank: int = 0) -> torch.device:
    """Where models compute: a GPU where there is one."""
    return torch.device("cuda", local_rank) if num_gpus() else torch.device("cpu")


def world_size_from_environment() -> int:
    """Number of ranks the launcher announced; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is to speak, by the launcher's environment alone: usable before `init`."""
    return os.environ.get("RANK", "0") == "0"


def init() -> Ranks:
    """Join the process group the environment describes; without a launcher, a group of one.

    Raises:
        DistError: the port is taken, the other ranks do not answer, or this machine has fewer GPUs than ranks.
    """
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone, MASTER_PORT=str(free_port()))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = num_gpus()
    if gpus:
        _check_gpu(local_rank, gpus)
        _let_segments_grow()
        torch.cuda.set_device(local_rank)
    try:
        torch_dist.init_process_group("nccl" if gpus else "gloo", timeout=TIMEOUT)
    except (torch_dist.DistNetworkError, torch_dist.DistStoreError) as error:
        raise DistError(_network_message(error)) from error
    control = torch_dist.new_group(backend="gloo", timeout=TIMEOUT) if gpus else torch_dist.group.WORLD
    assert control is not None
    return Ranks(
        rank=torch_dist.get_rank(), world_size=torch_dist.get_world_size(), local_rank=local_rank, control=control
    )


def teardown(*, others_wait: bool = False) -> None:
    """Leave the process group, if there is one.

    Args:
        others_wait: this rank failed: other ranks may be in a collective, and to leave in order would wait for them.
    """
    if torch_dist.is_initialized() and not (others_wait and torch_dist.get_world_size() > 1):
        torch_dist.destroy_process_group()


def _check_gpu(local_rank: int, gpus: int) -> None:
    if local_rank >= gpus:
        raise DistError(
            f"local rank {local_rank}: got {gpus} GPUs on this machine, expected one for each of its ranks; start as "
            f"many ranks as there are GPUs (deepspeed --num_gpus {gpus}), or set DS_ACCELERATOR=cpu to train on the CPU"
        )


def _let_segments_grow() -> None:
    """Packs differ in length: memory that torch's allocator took for one fits the next only where segments can grow."""
    if "PYTORCH_ALLOC_CONF" not in os.environ and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def _network_message(error: Exception) -> str:
    port = os.environ.get("MASTER_PORT", "?")
    if "EADDRINUSE" in str(error) or "in use" in str(error).lower():
        return (
            f"port {port} is in use by another job on this machine; give this one another: "
            f"deepspeed --master_port {free_port()} trainer/run.py ..."
        )
    where = f"{os.environ.get('MASTER_ADDR', '?')}:{port}"
    return f"the ranks cannot meet at {where}: {error}; check MASTER_ADDR, MASTER_PORT and that all ranks were started"


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
