"""Signs of life of a training loop in; stacks of all ranks and the name of the rank that is behind out, where nothing
moves, and seconds spent waiting for other ranks."""

import contextlib
import faulthandler
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType

from trainer.dist import Board, Ranks

STACKS_DIR = "stacks"
_POLL_S = 0.05
_ANSWER_S = 3.0
"""Seconds in which the ranks tell the main one where they are."""
_INNERMOST = 4
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a rank stands.

    Attributes:
        beat: signs of life it has given.
        step: that it works on.
        doing: in words.
        waiting: whether it waits for other ranks in a collective.
        where: `file:line function` of its main thread.
    """

    beat: int
    step: int
    doing: str
    waiting: bool
    where: str


def behind(statuses: Mapping[int, Status], world_size: int) -> list[int]:
    """Ranks that the others wait for: the silent ones, else those with the fewest signs of life, else those that wait
    for no one. Empty where all wait, or none."""
    silent = sorted(set(range(world_size)) - set(statuses))
    if silent:
        return silent
    fewest = min(status.beat for status in statuses.values())
    late = [rank for rank, status in sorted(statuses.items()) if status.beat == fewest]
    if len(late) < len(statuses):
        return late
    busy = [rank for rank, status in sorted(statuses.items()) if not status.waiting]
    return busy if len(busy) < len(statuses) else []


def report(statuses: Mapping[int, Status], world_size: int, seconds: float) -> str:
    """What the user is told of a hang."""
    late = behind(statuses, world_size)
    lines = [f"nothing has moved for {seconds:.0f} s; {_verdict(statuses, late)}"]
    for rank in [*late, *(rank for rank in sorted(statuses) if rank not in late)][:_SHOWN]:
        status = statuses.get(rank)
        if status is None:
            lines.append(f"  rank {rank}: gives no sign: it is frozen, gone, or still at work")
            continue
        waits = "waits for others" if status.waiting else "waits for no one"
        lines.append(f"  rank {rank}: step {status.step}, {status.doing}, {waits}, at {status.where}")
    return "\n".join(lines)


def is_waiting(frame: FrameType | None) -> bool:
    """Whether a thread is within a collective operation: in torch.distributed, or in DeepSpeed's wait for one."""
    for _ in range(_INNERMOST):
        if frame is None:
            return False
        file, name = frame.f_code.co_filename.replace("\\", "/"), frame.f_code.co_name
        if "torch/distributed/" in file or "deepspeed/comm/" in file or ("/deepspeed/" in file and name == "wait"):
            return True
        frame = frame.f_back
    return False


class Watchdog:
    """Watches the thread that made it, from `__enter__` to `__exit__`.

    Where no sign of life comes for `hang_after` seconds, each rank writes the stacks of all its threads and the main
    rank says which rank is behind. It ends nothing: that is left to the time-out of the collective. A rank on which
    other code keeps the interpreter lock writes no stacks, and gives no sign: a thread that needs no lock
    (`faulthandler.dump_traceback_later`) would read frames while they change, and end slow ranks that are at work.
    """

    def __init__(
        self, ranks: Ranks, run_dir: Path, *, hang_after: float, say: Callable[[str], None], part: str = "loop"
    ) -> None:
        """Watch one part of a run.

        Args:
            hang_after: seconds, 0 for never.
            say: prints a line for the user, from any thread.
            part: name of what is watched; each of a run is another one.
        """
        self._ranks, self._say, self._hang_after = ranks, say, hang_after
        self._path = run_dir / STACKS_DIR / f"rank_{ranks.rank}.txt"
        self._board: Board = ranks.board(f"watchdog of the {part}")
        self._watched = threading.get_ident()
        self._beat, self._since, self._step, self._doing = 0, time.monotonic(), 0, "starting"
        self._waited = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8")  # a requeued run keeps what the one before it left
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._file.close()
        if not self._path.stat().st_size:
            self._path.unlink()
            with contextlib.suppress(OSError):
                self._path.parent.rmdir()

    def beat(self, step: int, doing: str) -> None:
        """A sign of life: what the watched thread does from now on."""
        self._step, self._doing, self._since = step, doing, time.monotonic()
        self._beat += 1

    def waited(self) -> float:
        """Seconds spent waiting for other ranks since this was last asked; sampled 20 times a second."""
        seconds, self._waited = self._waited, 0.0
        return seconds

    def _watch(self) -> None:
        last, told = time.monotonic(), 0
        while not self._end.wait(_POLL_S):
            now = time.monotonic()
            if self._is_waiting():
                self._waited += now - last
            last = now
            stuck = self._hang_after and now - self._since > self._hang_after
            if stuck and told != self._beat:
                told = self._beat
                self._tell(now - self._since)
            elif told and not stuck:
                self._board.clear(self._ranks.rank)
                told = 0

    def _tell(self, seconds: float) -> None:
        """Give this rank's status and stacks; the main rank collects and reports."""
        self._board.put(self._ranks.rank, json.dumps(asdict(self._status())))
        faulthandler.dump_traceback(file=self._file)
        texts = self._board.collect(_ANSWER_S)
        if texts is not None:
            statuses = {rank: Status(**json.loads(text)) for rank, text in texts.items()}
            self._say(
                f"{report(statuses, self._ranks.world_size, seconds)}\nstacks of all ranks are in {self._path.parent}"
            )

    def _status(self) -> Status:
        frame = sys._current_frames().get(self._watched)
        code = frame.f_code if frame else None
        where = f"{code.co_filename}:{frame.f_lineno} {code.co_name}" if frame and code else "?"
        return Status(beat=self._beat, step=self._step, doing=self._doing, waiting=self._is_waiting(), where=where)

    def _is_waiting(self) -> bool:
        own = threading.get_ident()
        return any(is_waiting(frame) for thread, frame in sys._current_frames().items() if thread != own)


def _verdict(statuses: Mapping[int, Status], late: Sequence[int]) -> str:
    if not late and all(status.waiting for status in statuses.values()):
        return "all ranks wait in a collective, perhaps not in the same one"
    if not late:
        return "every rank is at work and none waits for another: it stands still alone, or is slow"
    shown = ", ".join(map(str, late[:_SHOWN])) + (f" and {len(late) - _SHOWN} more" if len(late) > _SHOWN else "")
    return f"rank {shown} is behind" if len(late) == 1 else f"ranks {shown} are behind"
