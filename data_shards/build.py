"""A plan of shards in, a finished shard directory out: whole shards written by several processes, restartable."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from data_shards.atomic import TEMPORARY_SUFFIX
from data_shards.dataset_file import DATASET_FILE, DatasetInfo, read_dataset_file, write_dataset_file
from data_shards.entries import LeftOut, ShardError
from data_shards.index import shard_is_whole
from data_shards.schema import RawFrame
from data_shards.write import finish_dataset, rows_left_out, shard_name, write_shard

_POLL_SECONDS = 0.2
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to write.

    Attributes:
        number: of the shard within its dataset.
        num_frames: frames that `make_frames` yields, those left out included.
        make_frames: makes the shard's frames, and says of those it cannot make why; sent to a worker process.
    """

    number: int
    num_frames: int
    make_frames: Callable[[], Iterator[RawFrame | LeftOut]]


@dataclass(frozen=True, kw_only=True)
class DatasetJob:
    """One directory of shards to write.

    Attributes:
        out_dir: where.
        source, licence: for `dataset.json`.
        build: the arguments that decide which frames there are; a restart with others is refused.
        shards: in order.
        max_left_out: rows that may be left out; one more and the dataset is not finished.
    """

    out_dir: Path
    source: str
    licence: str
    build: Mapping[str, Any]
    shards: Sequence[ShardJob]
    max_left_out: int = 0


class _Progress(Protocol):
    def put(self, num_frames: int) -> None: ...


class BuildStoppedError(RuntimeError):
    """Writing was asked to stop before the shard at hand was whole."""


def build_dataset(job: DatasetJob, *, workers: int = 1, show_progress: bool = True) -> DatasetInfo:
    """Write the shards of a dataset that are not whole yet, each in one process, then `dataset.json`.

    Args:
        job: what to write.
        workers: processes; the bytes written do not depend on it.
        show_progress: one bar on standard error, in frames.

    Raises:
        ShardError: the directory holds shards made from another source or with other arguments, or files that are no
            shards, or more rows are left out than may be.
        KeyboardInterrupt: passed on after the workers have stopped; whole shards stay.
    """
    prepare_directory(job)
    todo = [shard for shard in job.shards if not _is_done(job, shard)]
    total = sum(shard.num_frames for shard in job.shards)
    done = total - sum(shard.num_frames for shard in todo)
    with tqdm(
        total=total, initial=done, unit="frame", desc=str(job.out_dir), disable=None if show_progress else True
    ) as bar:
        if workers > 1 and len(todo) > 1:
            _write_parallel(job, todo, workers, bar)
        else:
            for shard in todo:
                write_shard(_counted(shard, bar.update), job.out_dir / shard_name(shard.number))
    _check_left_out(job)
    return finish_dataset(job.out_dir, source=job.source, licence=job.licence, build=dict(job.build))


def prepare_directory(job: DatasetJob) -> None:
    """Make the directory, or check that it is an earlier run of the same job; remove what that run left half-written.

    Raises:
        ShardError: as `build_dataset`.
    """
    job.out_dir.mkdir(parents=True, exist_ok=True)
    old = read_dataset_file(job.out_dir)
    if old is None:
        _check_empty(job.out_dir)
        write_dataset_file(
            job.out_dir, DatasetInfo(source=job.source, licence=job.licence, complete=False, build=job.build)
        )
        return
    expected = {"source": job.source, **job.build}
    got = {"source": old.source, **old.build}
    different = [name for name in {**expected, **got} if expected.get(name) != got.get(name)]
    if different:
        name = different[0]
        raise ShardError(
            f"{job.out_dir / DATASET_FILE}: field {name!r}: got {got.get(name)!r}, expected {expected.get(name)!r}: "
            "--out holds shards made from other frames; name another directory, or remove this one"
        )
    for leftover in job.out_dir.glob(f".*{TEMPORARY_SUFFIX}"):
        leftover.unlink()


def _check_left_out(job: DatasetJob) -> None:
    items = rows_left_out(job.out_dir)
    num_rows = sum(len(item.lines) for item in items)
    if num_rows > job.max_left_out:
        listed = "".join(f"\n  {item}" for item in items[:_SHOWN])
        raise ShardError(
            f"{job.out_dir}: got {num_rows} rows that cannot be used, expected at most {job.max_left_out}; mend them, "
            f"or allow more with --max-bad-fraction; the first are:{listed}"
        )


def _check_empty(directory: Path) -> None:
    found = sorted(path.name for path in directory.iterdir() if not path.name.endswith(TEMPORARY_SUFFIX))
    if found:
        raise ShardError(
            f"{directory}: field '--out': got a directory that holds {found[0]!r} and no {DATASET_FILE}, expected an "
            "empty or new one; name another directory, or remove what it holds"
        )


def _is_done(job: DatasetJob, shard: ShardJob) -> bool:
    return shard_is_whole(job.out_dir / shard_name(shard.number), shard.num_frames)


def _counted(shard: ShardJob, add: Callable[[int], object]) -> Iterator[RawFrame | LeftOut]:
    for frame in shard.make_frames():
        yield frame
        add(1)


def _write_parallel(job: DatasetJob, todo: Sequence[ShardJob], workers: int, bar: tqdm) -> None:
    context = get_context("spawn")
    manager = SyncManager(ctx=context)
    with _ctrl_c_held():
        manager.start(_start_child)
    with manager, ProcessPoolExecutor(workers, context, _start_child) as pool:
        progress, stop = manager.Queue(), manager.Event()
        with _ctrl_c_held():
            tasks: set[Future[None]] = {
                pool.submit(_write_one, shard, job.out_dir / shard_name(shard.number), progress, stop) for shard in todo
            }
        try:
            _follow(tasks, progress, bar)
        finally:  # after an exception some are still at work
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """A Ctrl-C waits until the end of this context; children started in it never get one, not even while they start."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _start_child() -> None:
    """Ctrl-C reaches the whole group: it is left to the parent, which asks its workers to stop. A killed parent cannot
    ask, so workers end with it; otherwise they would wait for ever, or go on beside the run that follows.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _follow(tasks: set["Future[None]"], progress: Any, bar: tqdm) -> None:
    while tasks:
        finished, tasks = wait(tasks, timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
        while not progress.empty():
            bar.update(progress.get())
        for task in finished:
            task.result()


def _write_one(shard: ShardJob, tar: Path, progress: _Progress, stop: threading.Event) -> None:
    def add(num_frames: int) -> None:
        progress.put(num_frames)
        if stop.is_set():
            raise BuildStoppedError(f"{tar}: stopped")

    write_shard(_counted(shard, add), tar)
