"""The memory estimate at full size, against the bytes that the stages' own code holds while shapes run through it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.traced_kernels import traced_kernels
from benchmarks.traced_memory import META, HeldBytes, traced_step
from trainer.bench.settings import BenchSettings, bench_recipe
from trainer.checkpointing_section import CheckpointingSection
from trainer.footprint import footprint
from trainer.stages import make_stage


def full_size(stage, vision=0, language=0, **others):
    layers = CheckpointingSection(vision=vision, language=language)
    return BenchSettings(preset="drivlm-2b", stage=stage, ds_config=Path("zero1.json"), checkpointing=layers, **others)


def test_storages_count_once_and_as_long_as_somebody_holds_them():
    own = torch.empty(100, 512, device=META)
    with HeldBytes(without=[own]) as counted:
        doubled = own * 2
        assert counted.held == 100 * 512 * 4
        view = doubled.view(512, 100).t()
        assert counted.held == 100 * 512 * 4
        del doubled
        assert counted.held == 100 * 512 * 4
        own.view(-1)
        view = view[:1].clone()
        assert counted.held == 512 * 4
    assert counted.peak == 100 * 512 * 4 + 512 * 4
    assert view.shape == (1, 512)


def test_what_autograd_keeps_is_held_until_the_backward_pass():
    weight = torch.empty(64, 64, device=META, requires_grad=True)
    states = torch.empty(32, 64, device=META)
    with HeldBytes(without=[weight, states]) as counted:
        total = (states @ weight).relu().sum()
        assert counted.held == 32 * 64 * 4 + 512
        total.backward()
        weight.grad = None
        del total
        assert counted.held == 0


@pytest.mark.parametrize(
    "settings",
    [
        full_size("finetune"),
        full_size("finetune", vision=20, language=3),
        full_size("finetune", vision="all", language="all", kernels="plain"),
        full_size("finetune", tokens=8192, tiles=26),
        full_size("align"),
        full_size("align", language="all"),
        full_size("distill"),
        full_size("distill", vision=20),
        full_size("distill", cached=True),
    ],
    ids=lambda settings: f"{settings.stage}-{settings.checkpointing.vision}-{settings.checkpointing.language}",
)
def test_a_full_size_step_holds_what_was_estimated(settings):
    traced = traced_step(settings)
    assert traced.tiles == (13 if settings.tiles == 26 else 39)
    slack = 1.1 if settings.checkpointing.language == "all" else 0.35
    assert -0.03 * 2**30 <= traced.estimated_peak - traced.peak <= slack * 2**30
    assert -0.03 * 2**30 <= traced.estimated_kept - traced.kept <= 0.03 * 2**30


@pytest.mark.parametrize(("name", "last_k"), [("align", 1), ("distill", 1), ("distill", 2), ("distill", 4)])
def test_a_frozen_tower_holds_what_was_estimated_while_it_runs(name, last_k, tmp_path):
    recipe = bench_recipe(full_size(name), tmp_path)
    recipe = replace(recipe, distill=replace(recipe.distill, last_k=last_k))
    with traced_kernels():
        stage = make_stage(recipe, torch.bfloat16, loaded=False)
    tower = stage.vlm.model.vision_tower if name == "align" else stage.teacher
    tower.to(META, torch.bfloat16)
    pixels = torch.empty(39, 3, 448, 448, dtype=torch.bfloat16, device=META)
    with HeldBytes(without=[pixels, *tower.parameters(), *tower.buffers()]) as counted:
        given = tower(pixels) if name == "align" else stage._states(pixels, None)
    assert given is not None
    alone = footprint(stage, max_tokens=1, max_tiles=39, divided=False).forward_alone
    assert alone == pytest.approx(counted.peak, rel=1e-4)
