"""As few layers are checkpointed as fit the card that is named, or the one that is there."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from trainer.bench.fit import fitted, with_room
from trainer.bench.settings import BenchSettings, bench_recipe
from trainer.checkpointing_section import CheckpointingSection
from trainer.memory import GIB, Zero
from trainer.memory_fit import memory_of
from trainer.stages import make_stage
from trainer.stages.sources import StageError

ZERO1 = {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}
BY_HAND = CheckpointingSection(vision=1)


@pytest.fixture
def settings(tmp_path):
    return BenchSettings(preset="tiny", stage="finetune", ds_config=tmp_path, tokens=600, tiles=26)


def test_the_fewest_layers_are_checkpointed_that_fit_a_card(settings, tmp_path):
    config = {"zero_optimization": {"stage": 3, "reduce_bucket_size": 1000}}
    stage = make_stage(bench_recipe(settings, tmp_path), torch.float32, loaded=False)
    peak = memory_of(stage, Zero.of(config, 1)).peak / GIB
    enough, _ = fitted(replace(settings, gpu_gib=peak), config, 1, tmp_path)
    assert enough.checkpointing.vision == 0
    little, said = fitted(replace(settings, gpu_gib=peak - 0.01), config, 1, tmp_path)
    some = little.checkpointing
    assert 0 < some.vision + some.language < 8
    assert f"vision {some.vision} of 4, language {some.language} of 4" in said
    with pytest.raises(StageError, match="--gpu-memory: got 1 GiB, too little"):
        fitted(replace(settings, gpu_gib=1), config, 1, tmp_path)


def test_layers_named_by_hand_stay_and_nothing_is_checkpointed_without_a_card(settings, tmp_path):
    assert fitted(replace(settings, checkpointing=BY_HAND), ZERO1, 1, tmp_path)[0].checkpointing == BY_HAND
    assert fitted(settings, ZERO1, 1, tmp_path)[0].checkpointing == CheckpointingSection()


def test_a_full_size_step_fits_an_80_gib_card_by_default(settings, tmp_path):
    large = replace(settings, preset="drivlm-2b", tokens=16384, tiles=48, gpu_gib=78.1)
    chosen, said = fitted(large, ZERO1, 1, tmp_path)
    assert 0 < chosen.checkpointing.vision <= 24
    assert float(said.split("; ")[1].split()[0]) <= 78.1


def test_a_stock_model_is_not_divided_among_ranks_that_would_wait_for_each_other(settings, tmp_path):
    zero3 = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}}
    stock = replace(settings, stock=True, questions_per_visit=1)
    with pytest.raises(StageError, match="--stock: got ZeRO-3 on 2 ranks, expected another stage or one rank"):
        fitted(stock, zero3, 2, tmp_path)
    for config, world_size in ((zero3, 1), (ZERO1, 2)):
        assert fitted(stock, config, world_size, tmp_path)[0].stock


class FakeRanks:
    """Two ranks, the other of which sees 70 GiB."""

    def __init__(self, device):
        self._device = device

    def device(self):
        return torch.device(self._device)

    def max(self, values):
        return [max(value, -70.0) for value in values]


@pytest.mark.parametrize(("free", "room"), [(78.5, 70.0), (78.9, 70.0), (40.25, 40.2)])
def test_the_room_is_that_of_the_smallest_card_or_what_others_leave(settings, monkeypatch, free, room):
    info = SimpleNamespace(mem_get_info=lambda: (int(free * GIB), int(79.2 * GIB)))
    monkeypatch.setattr(torch, "cuda", info)
    assert with_room(settings, FakeRanks("cuda")).gpu_gib == room


def test_a_margin_of_the_card_is_left_alone(settings, monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(mem_get_info=lambda: (int(60.0 * GIB), int(60.25 * GIB))))
    assert with_room(settings, FakeRanks("cuda")).gpu_gib == 59.2


def test_a_card_or_layers_that_are_named_are_not_overridden(settings, monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(mem_get_info=None))
    for changes in ({"gpu_gib": 24.0}, {"checkpointing": BY_HAND}):
        named = replace(settings, **changes)
        assert with_room(named, FakeRanks("cuda")) == named
    assert with_room(settings, FakeRanks("cpu")) == settings
