"""Means over held-out packs, by dataset."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from trainer.stages.base import LossOut
from trainer.validation import HeldOut, _values, held_out_losses


def test_means_are_exact_over_all_datasets_and_the_second_part_adds_up():
    names = ("loss", "second", "features", "unseen")
    sums = torch.tensor(
        [
            [[6.0, 2.0], [5.0, 10.0], [4.0, 2.0], [9.0, 9.0], [1.0, 0.0]],
            [[2.0, 6.0], [0.0, 0.0], [0.0, 0.0], [9.0, 9.0], [0.0, 0.0]],
        ],
        dtype=torch.float64,
    )
    assert _values(names, ["unseen", "other"], sums) == pytest.approx(
        {
            "validation/loss": 8 / 8 + 5 / 10,
            "validation/features": 2.0,
            "validation/left_out": 1.0,
            "validation/unseen/loss": 3.5,
            "validation/unseen/features": 2.0,
            "validation/unseen/left_out": 1.0,
            "validation/other/loss": 2 / 6,
        }
    )


class _Alone:
    """Stands for `Ranks` of a world of one."""

    rank, world_size = 0, 1

    def device(self):
        return torch.device("cpu")

    def sum(self, values):
        return list(values)


class _Unasked:
    """Stands for `StopCheck` where nobody asks for a stop."""

    def together(self):
        return None


def test_a_pack_without_tiles_counts_in_the_second_part_alone(monkeypatch):
    packs = [SimpleNamespace(tiles=2.0, labels=3.0), SimpleNamespace(tiles=0.0, labels=5.0)]
    for pack in packs:
        pack.meta = SimpleNamespace(bad=())
    monkeypatch.setattr("trainer.validation._loader", lambda *_: iter([pack] for pack in packs))
    monkeypatch.setattr("trainer.validation.explained_memory", lambda *_: nullcontext())
    stage = SimpleNamespace(
        model=torch.nn.Identity(),
        recipe=SimpleNamespace(data=None),
        metric_names=lambda: ("features",),
        train_mode=lambda: None,
        weight=lambda pack: pack.tiles,
        second_weight=lambda pack: pack.labels,
        loss=lambda forward, pack, device: LossOut(
            total=torch.tensor(4.0), second=torch.tensor(pack.tiles), metrics={"features": (torch.tensor(4.0), 2)}
        ),
    )
    held = HeldOut(source=SimpleNamespace(name="unseen"), stream=None, packs=2)
    values = held_out_losses([held], stage, stage.model, _Alone(), torch.device("cpu"), lambda text: None, _Unasked())
    assert values["validation/features"] == 2.0
    assert values["validation/loss"] == pytest.approx(4.0 / 2 + 2.0 / 8)
