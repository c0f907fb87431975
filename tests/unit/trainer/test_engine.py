"""What a user is told where DeepSpeed's optimiser cannot be built."""

import importlib

import pytest
import torch

from trainer.engine import Engine, EngineError


def _fail(message: str, cause: Exception | None = None):
    def initialize(**kwargs: object) -> None:
        raise RuntimeError(message) from cause

    return initialize


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("DeepSpeedCPUAdam requires the cpu_adam op, which failed to build/load.", None),
        ("Error building extension", RuntimeError("Ninja is required to load C++ extensions")),
    ],
)
def test_an_optimiser_that_cannot_be_built_is_explained(monkeypatch, message, cause):
    monkeypatch.setattr(importlib.import_module("deepspeed"), "initialize", _fail(message, cause))
    with pytest.raises(EngineError, match=r"Install g\+\+ and ninja .* \"torch_adam\": true"):
        Engine(torch.nn.Linear(2, 2), [], {})


def test_another_error_of_deepspeed_comes_through(monkeypatch):
    monkeypatch.setattr(importlib.import_module("deepspeed"), "initialize", _fail("no such device"))
    with pytest.raises(RuntimeError, match="no such device"):
        Engine(torch.nn.Linear(2, 2), [], {})
