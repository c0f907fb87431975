"""Ranks killed with SIGKILL at random moments: the samples that follow are those of a run that was never stopped."""

import json
import multiprocessing
import signal
import time
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_shards.atomic import write_atomically
from data_shards.chat import internlm2_chat
from data_shards.loader import PackLoader, TextSettings
from data_shards.schema import CAMERAS
from tests.helpers.tokenizer import tiny_tokenizer
from tests.helpers.waiting import TIMEOUT_S
from tests.unit.data_shards.test_loader import LAYOUT, frames, make_stream, source

KILLS = 20
EVERY = 3
"""Steps between two checkpoints."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    made = [("driving", frames(8, images=CAMERAS, seed=1)), ("talk", frames(4, images=(), seed=3))]
    return [source(folder, name, some) for name, some in made]


@pytest.fixture(scope="module")
def text(sources, tmp_path_factory):
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return TextSettings(tokenizer=tokenizer, template=internlm2_chat(), tokens_per_tile=4)


def rank_process(sources, text, run: Path, rank: int, world: int, start: tuple[int, int], barrier) -> None:
    """Take steps for ever; log what each showed, and let rank 0 save the position every few steps."""
    stream = make_stream(sources, text)
    loader = PackLoader(
        sources,
        stream,
        layout=LAYOUT,
        text=text,
        rank=rank,
        world_size=world,
        start_position=start[1],
        workers=rank % 2,
    )
    number = start[0]
    with (run / f"rank-{rank}.jsonl").open("w") as log:
        for step, (batch,) in enumerate(loader, start=1):
            log.write(json.dumps([number + rank, batch.meta.question_refs]) + "\n")
            log.flush()
            barrier.wait()
            number += world
            if rank == 0 and step % EVERY == 0:
                write_atomically(run.parent / "checkpoint.json", json.dumps([number, loader.position]).encode())


def kill_all(processes) -> None:
    tree = [p for process in processes for p in (psutil.Process(process.pid), *psutil.Process(process.pid).children())]
    for process in tree:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.join()


def logged(run: Path) -> dict[int, list]:
    """Number of each pack to its questions; a line that the kill cut off is none."""
    lines = [line for path in run.glob("rank-*.jsonl") for line in path.read_text().splitlines(keepends=True)]
    return dict(json.loads(line) for line in lines if line.endswith("\n"))


def last_checkpoint(root: Path) -> tuple[int, int]:
    path = root / "checkpoint.json"
    number, position = json.loads(path.read_text()) if path.is_file() else (0, 0)
    return number, position


def test_after_twenty_kills_and_with_other_world_sizes_the_samples_are_those_of_an_unstopped_run(
    sources, text, tmp_path
):
    context = multiprocessing.get_context("fork")
    rng = np.random.default_rng(4)
    shown: dict[int, list] = {}
    starts = []
    for kill in range(KILLS):
        run, world = tmp_path / f"run-{kill:02d}", 1 + kill % 4
        run.mkdir()
        start = last_checkpoint(tmp_path)
        starts.append(start[0])
        barrier = context.Barrier(world)
        ranks = [
            context.Process(target=rank_process, args=(sources, text, run, rank, world, start, barrier))
            for rank in range(world)
        ]
        for process in ranks:
            process.start()
        wanted = int(rng.integers(1, 8))
        wait_for(lambda run=run, wanted=wanted, world=world: len(logged(run)) >= wanted * world, ranks)
        time.sleep(float(rng.random()) * 0.02)
        kill_all(ranks)
        found = logged(run)
        assert all(shown.get(number, refs) == refs for number, refs in found.items())
        shown |= found
    assert len(set(starts)) > KILLS / 3, "too few of the kills came after a checkpoint"
    straight = iter(PackLoader(sources, make_stream(sources, text), layout=LAYOUT, text=text))
    expected = [[list(ref) for ref in batch.meta.question_refs] for (batch,) in islice(straight, max(shown) + 1)]
    assert len(shown) > 60
    assert {number: refs for number, refs in enumerate(expected) if number in shown} == shown
    saved, position = last_checkpoint(tmp_path)
    assert set(range(saved)) <= set(shown)
    assert make_stream(sources, text).advance(0, saved) == position


def wait_for(holds, processes) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        assert all(process.is_alive() for process in processes), "a rank ended by itself"
        time.sleep(0.005)
