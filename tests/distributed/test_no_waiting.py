"""Under every ZeRO stage the host does not wait for its device at the begin and the end of a step."""

import importlib
import json
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.dist import on_ranks
from tests.helpers.paths import ROOT
from trainer.bench.measure import measure
from trainer.bench.settings import BenchSettings

SETTINGS = BenchSettings(
    preset="tiny",
    stage="align",
    ds_config=ROOT / "ds_configs" / "zero1.json",
    tokens=400,
    tiles=13,
    steps=4,
    warmup=1,
    adamw="plain",
    peak_tflops=1.0,
)


def count_waits_of_timers(ranks, settings, *, wanted):
    accelerator = importlib.import_module("deepspeed.accelerator").get_accelerator()
    callers = []
    accelerator.synchronize = lambda *ignored: callers.append(traceback.extract_stack(limit=2)[0].filename)
    with tempfile.TemporaryDirectory() as directory:
        measure(settings, ranks, Path(directory))
    assert any("timer" in caller for caller in callers) == wanted, callers


def none(ranks, settings):
    count_waits_of_timers(ranks, settings, wanted=False)


def some(ranks, settings):
    count_waits_of_timers(ranks, settings, wanted=True)


@pytest.mark.distributed
@pytest.mark.parametrize("config", ["zero1", "zero2", "zero3"])
def test_deepspeeds_timer_is_off(config):
    on_ranks(none, replace(SETTINGS, ds_config=ROOT / "ds_configs" / f"{config}.json"), world=1)


@pytest.mark.distributed
def test_it_waits_where_a_configuration_asks_for_it(tmp_path):
    config = json.loads(SETTINGS.ds_config.read_text()) | {"timers": {"throughput": {"enabled": True}}}
    (tmp_path / "timed.json").write_text(json.dumps(config))
    on_ranks(some, replace(SETTINGS, ds_config=tmp_path / "timed.json"), world=1)
