"""Run loggers: files, and continuing them."""

import json
import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.loggers import RunLogger

VALUES = {"loss/total": 1.5, "rate/samples_per_s": 3.0}


def _steps(run_dir):
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def _events(run_dir) -> EventAccumulator:
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return events


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
