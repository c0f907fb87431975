"""What a user is told where DeepSpeed's optimiser cannot be built, and which loss scale a run goes on with."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from trainer.engine import Engine, EngineError
from trainer.engine_state import counters, set_counters


def _fail(message: str, cause: Exception | None = None):
    def initialize(**kwargs: object) -> None:
        raise RuntimeError(message) from cause

    return initialize


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("DeepSpeedCPUAdam requires the cpu_adam op, which failed to build/load.", None),
        ("Error building extension", RuntimeError("Ninja is required to load C++ extensions")),
        ("cannot load", OSError("CUDA_HOME environment variable is not set.")),
    ],
)
def test_an_optimiser_that_cannot_be_built_is_explained(monkeypatch, message, cause):
    monkeypatch.setattr(importlib.import_module("deepspeed"), "initialize", _fail(message, cause))
    with pytest.raises(EngineError, match=r"Install g\+\+ and ninja .* \"torch_adam\": true"):
        Engine(torch.nn.Linear(2, 2), [], {})


def test_an_optimiser_without_cudas_compiler_is_explained(monkeypatch):
    deepspeed = importlib.import_module("deepspeed")

    def initialize(**kwargs):
        raise importlib.import_module("deepspeed.ops.op_builder.builder").MissingCUDAException(
            "CUDA_HOME does not exist"
        )

    monkeypatch.setattr(deepspeed, "initialize", initialize)
    with pytest.raises(EngineError, match="on GPUs also nvcc"):
        Engine(torch.nn.Linear(2, 2), [], {})


def test_another_error_of_deepspeed_comes_through(monkeypatch):
    monkeypatch.setattr(importlib.import_module("deepspeed"), "initialize", _fail("no such device"))
    with pytest.raises(RuntimeError, match="no such device"):
        Engine(torch.nn.Linear(2, 2), [], {})


def _with_scale(scaler: object = None) -> SimpleNamespace:
    """Stands for DeepSpeed's engine, with its own loss scaler, or none."""
    optimizer = SimpleNamespace(loss_scaler=scaler) if scaler else SimpleNamespace()
    return SimpleNamespace(global_steps=0, global_samples=0, skipped_steps=0, optimizer=optimizer)


def test_a_loss_scale_goes_on_under_fp16_and_starts_as_configured_in_another_precision():
    make = importlib.import_module("deepspeed.runtime.fp16.loss_scaler").CreateLossScaler
    looks = {"scale_window": 100, "min_scale": 1, "delayed_shift": 2, "consecutive_hysteresis": False}
    half, other = (make(torch.half, 1.0, True, looks | {"init_scale": scale}) for scale in (2.0**16, 2.0**9))
    other.cur_iter = 7
    full = make(torch.float32, 1.0, False, None)
    found = {name: counters(_with_scale(own)) for name, own in (("half", other), ("full", full), ("none", None))}
    for engine, name in ((_with_scale(half), "full"), (_with_scale(half), "none"), (_with_scale(), "full")):
        set_counters(engine, found[name])
    assert (half.cur_scale, half.cur_iter) == (2.0**16, 0)
    set_counters(_with_scale(full), found["half"])
    assert full.cur_scale == 1.0
    set_counters(_with_scale(half), found["half"])
    assert (half.cur_scale, half.cur_iter) == (2.0**9, 7)
