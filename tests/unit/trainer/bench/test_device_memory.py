"""The peak of a step is what the card lost: torch's own peak, and what others took beside it."""

from types import SimpleNamespace

import torch

from trainer.bench.device_memory import measured_memory


def test_the_peak_counts_what_is_taken_outside_of_torch(monkeypatch):
    fake = SimpleNamespace(
        mem_get_info=lambda device: (30, 80),
        memory_reserved=lambda device: 44,
        max_memory_reserved=lambda device: 61,
    )
    monkeypatch.setattr(torch, "cuda", fake)
    found = measured_memory(torch.device("cuda", 0))
    assert found == {"measured_peak": 67, "measured_by_torch": 61, "measured_outside": 6}


def test_nothing_is_measured_on_a_cpu():
    assert set(measured_memory(torch.device("cpu")).values()) == {None}
