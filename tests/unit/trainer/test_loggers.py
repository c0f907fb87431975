"""Run loggers: files, and continuing them."""

import json
import math
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.waiting import wait_until
from trainer.curves import Curves
from trainer.loggers import RunLogger

VALUES = {"loss/total": 1.5, "rate/samples_per_s": 3.0}


def _steps(run_dir):
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def _events(run_dir) -> EventAccumulator:
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return events


def _until_on_disk(run_dir) -> None:
    """Wait for the last of the first values: TensorBoard's writer has a thread of its own."""
    wait_until(lambda: "rate/samples_per_s" in _events(run_dir).Tags()["scalars"])


def test_scalars_and_pictures_are_in_tensorboard_and_jsonl(tmp_path):
    logger = RunLogger(tmp_path, title="t", steps=4, done=0)
    logger.scalars(1, VALUES)
    logger.step_done(1)
    logger.picture(1, "set/question", np.zeros((8, 9, 3), np.uint8), "**question**: what?")
    logger.close()
    events = _events(tmp_path)
    assert [event.value for event in events.Scalars("loss/total")] == [1.5]
    assert (events.Images("set/question")[0].height, events.Images("set/question")[0].width) == (8, 9)
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record["loss/total"] == 1.5
    assert record["step"] == 1


def test_resumed_curves_drop_what_came_after_the_checkpoint(tmp_path):
    first = RunLogger(tmp_path, title="t", steps=9, done=0)
    for step in (1, 2, 3, 4):
        first.scalars(step, VALUES)
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "cut')
    second = RunLogger(tmp_path, title="t", steps=9, done=2)
    second.scalars(3, VALUES | {"loss/total": 9.0})
    second.close()
    assert _steps(tmp_path) == [1, 2, 3]
    assert [(e.step, e.value) for e in _events(tmp_path).Scalars("loss/total")] == [(1, 1.5), (2, 1.5), (3, 9.0)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_json_lacks_become_null(tmp_path, value):
    logger = RunLogger(tmp_path, title="t", steps=1, done=0)
    logger.scalars(1, VALUES | {"loss/total": value})
    logger.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss/total"] is None


@contextmanager
def _full_disk() -> Iterator[None]:
    """No file may grow, whatever its disk: also those that stand for the terminal in a test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_no_run_and_costs_no_line(tmp_path):
    logger = RunLogger(tmp_path, title="t", steps=9, done=0)
    logger.scalars(1, VALUES)
    _until_on_disk(tmp_path)
    with _full_disk():
        for step in (2, 3):
            logger.scalars(step, VALUES)
            logger.say(f"step {step}")
            logger.step_done(step)
    logger.scalars(4, VALUES)
    logger.close()
    assert _steps(tmp_path) == [1, 2, 3, 4]
    assert [event.step for event in _events(tmp_path).Scalars("loss/total")] == [1, 4]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_curves_begin_a_new_file_where_the_old_one_took_no_more(tmp_path):
    said: list[str] = []
    curves = Curves(tmp_path / "tensorboard", done=0, say=said.append)
    curves.scalars(1, VALUES)
    with _full_disk():
        for step in range(2, 200):
            curves.scalars(step, VALUES)
            curves.close()
    assert "points of the curves are lost: [Errno 27]" in said[0]
    curves.scalars(200, VALUES)
    curves.close()
    assert [event.step for event in _events(tmp_path).Scalars("loss/total")][-1] == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_point_is_kept_whose_writer_failed_at_an_earlier_one(tmp_path):
    said: list[str] = []
    others = set(threading.enumerate())
    curves = Curves(tmp_path / "tensorboard", done=0, say=said.append)
    (writer,) = set(threading.enumerate()) - others
    curves.scalars(1, VALUES)
    _until_on_disk(tmp_path)
    with _full_disk():
        curves.scalars(2, {"loss/total": 2.0})
        writer.join()
    curves.scalars(3, VALUES)
    curves.close()
    assert len(said) == 1
    assert [event.step for event in _events(tmp_path).Scalars("loss/total")] == [1, 3]


def test_a_run_that_begins_again_at_its_first_step_has_each_step_once(tmp_path):
    for value in (1.0, 2.0):
        logger = RunLogger(tmp_path, title="t", steps=9, done=0)
        logger.scalars(1, VALUES | {"loss/total": value})
        logger.close()
    assert _steps(tmp_path) == [1]
    assert [event.value for event in _events(tmp_path).Scalars("loss/total")] == [2.0]
