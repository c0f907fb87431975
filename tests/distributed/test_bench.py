"""The benchmark on two ranks: communication is what a rank waits for the other, and the parts are the whole step."""

import json
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.distributed as torch_dist

from tests.helpers.dist import CPU_ZERO3, on_ranks
from tests.helpers.waiting import wait_until
from trainer.bench import feed, measure
from trainer.bench.collectives import COMMUNICATION, timed_collectives
from trainer.bench.settings import BenchSettings
from trainer.bench.timeline import Timeline

SETTINGS = BenchSettings(
    preset="tiny", stage="finetune", ds_config=CPU_ZERO3, tokens=400, tiles=13, steps=3, warmup=1, peak_tflops=1.0
)
SLOW = 0.3
"""Seconds by which a rank or its data is late."""


def come_late(ranks, place):
    """Rank 1 goes on only some time after rank 0 has come to the same place."""
    if ranks.rank == 0:
        place.touch()
    else:
        wait_until(place.exists)
        time.sleep(SLOW)


def late_rank(ranks, directory):
    timeline = Timeline(torch.device("cpu"))
    before = vars(torch_dist.ProcessGroup)["allreduce"]
    with timed_collectives(timeline):
        for asynchronous in (False, True):
            ranks.barrier()
            timeline.begin()
            value = torch.ones(3)
            come_late(ranks, directory / f"{asynchronous}")
            timeline.mark("computing")
            work = torch_dist.all_reduce(value, async_op=asynchronous)
            if asynchronous:
                timeline.mark("computing")
                work.wait()
            timeline.mark("end")
            timeline.end()
            assert value.tolist() == [2.0, 2.0, 2.0]
        seconds = timeline.seconds()
    assert vars(torch_dist.ProcessGroup)["allreduce"] is before
    torch_dist.all_reduce(value)
    assert len(timeline.steps[-1]) > 3
    for parts in seconds:
        if ranks.rank == 0:
            assert parts[COMMUNICATION] > 0.8 * SLOW
        else:
            assert parts["computing"] > 0.9 * SLOW


def test_the_rank_that_waits_for_a_late_one_communicates(tmp_path):
    on_ranks(late_rank, tmp_path)


def collectives():
    """What a rank alone may call, by name: torch's public functions over gloo."""
    one, two = torch.ones(2), torch.empty(2)
    return {
        "all_reduce": lambda: torch_dist.all_reduce(one),
        "all_gather": lambda: torch_dist.all_gather([two], one),
        "all_gather_into_tensor": lambda: torch_dist.all_gather_into_tensor(two, one),
        "reduce_scatter": lambda: torch_dist.reduce_scatter(two, [one]),
        "reduce_scatter_tensor": lambda: torch_dist.reduce_scatter_tensor(two, one),
        "all_to_all_single": lambda: torch_dist.all_to_all_single(two, one),
        "all_to_all": lambda: torch_dist.all_to_all([two], [one]),
        "broadcast": lambda: torch_dist.broadcast(one, 0),
        "reduce": lambda: torch_dist.reduce(one, 0),
        "gather": lambda: torch_dist.gather(one, [two], 0),
        "scatter": lambda: torch_dist.scatter(two, [one], 0),
        "barrier": torch_dist.barrier,
        "monitored_barrier": torch_dist.monitored_barrier,
        "broadcast_object_list": lambda: torch_dist.broadcast_object_list([1], 0),
    }


def rank_alone(ranks):
    timeline = Timeline(torch.device("cpu"))
    for name, call in collectives().items():
        for watched in (False, True):
            timeline.begin()
            with timed_collectives(timeline) if watched else nullcontext():
                call()
            timeline.mark("end")
            assert (timeline.seconds()[-1].get(COMMUNICATION, 0.0) > 0) == watched, name
            timeline.end()


def test_every_collective_of_a_rank_is_communication():
    on_ranks(rank_alone, world=1)


def measured(ranks, directory):
    def late(make):
        def steps():
            for number, step in enumerate(make()):
                come_late(ranks, directory / f"step-{number}")
                yield step

        return steps

    plain = feed.make_feed
    measure.make_feed = lambda *args: replace(made := plain(*args), steps=late(made.steps))
    figures = measure.measure(SETTINGS, ranks, directory)
    (directory / f"{ranks.rank}.json").write_text(json.dumps(figures))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench")
    on_ranks(measured, directory)
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)]


def test_parts_of_a_step_on_two_ranks_add_up_to_the_clock(both):
    for figures in both:
        shares = figures["shares"]
        assert sum(shares.values()) == pytest.approx(1, abs=1e-9)
        assert 0 <= figures["unaccounted"] < 0.1
        assert {"vision forward", "language forward", "language backward", "vision backward"} <= set(shares)
        assert all(share > 0 for share in shares.values())


def test_late_data_is_data_wait_on_its_rank_and_communication_on_the_other(both):
    on_time, late = (figures["seconds"] for figures in both)
    assert late["data wait"]["median"] > SLOW
    assert on_time["data wait"]["median"] < late["data wait"]["median"]
    assert on_time[COMMUNICATION]["median"] > 0.8 * SLOW
    assert late[COMMUNICATION]["median"] > 0
