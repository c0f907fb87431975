"""Full-size stages on the meta device: what fits into a card, and what would."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_shards.mixture import PackLimits
from trainer.bench.settings import BenchSettings, bench_recipe
from trainer.footprint import as_in_recipe, footprint
from trainer.memory import GIB, Zero, estimate
from trainer.memory_fit import cheapest, memory_of, memory_report
from trainer.recipe import CheckpointingSection
from trainer.stages import make_stage

ZERO = Zero(stage=3, world_size=8, item=2, reduce_bucket=200_000_000, live=1_000_000_000)


def make(name, preset="drivlm-2b", **settings):
    bench = BenchSettings(preset=preset, stage=name, ds_config=Path("x.json"), **settings)
    return make_stage(bench_recipe(bench, Path("r")), torch.bfloat16, loaded=False)


@pytest.fixture(scope="module")
def finetune():
    return make("finetune")


def test_no_weight_is_made(finetune):
    assert all(parameter.is_meta for parameter in finetune.model.parameters())


def test_full_size_finetuning_needs_checkpointing_on_one_card_and_is_told_how_much(finetune):
    size = footprint(finetune, max_tokens=16384, max_tiles=48, divided=True)
    assert size.parameters == size.trained > 2_200_000_000
    assert estimate(size, ZERO, {}).peak > 80 * GIB
    counts = cheapest(size, ZERO, 80 * GIB)
    assert counts is not None
    assert estimate(size, ZERO, counts).peak <= 80 * GIB
    fewer = [counts | {name: count - 1} for name, count in counts.items() if count]
    assert fewer
    assert all(estimate(size, ZERO, one).peak > 80 * GIB for one in fewer)


def test_what_can_never_fit_is_said(finetune):
    assert cheapest(footprint(finetune, max_tokens=16384, max_tiles=48, divided=True), ZERO, GIB) is None
    text = memory_report(finetune, ZERO, gpu_gib=2)
    assert "does not fit" in text
    assert "no limits fit" in text


def test_report_names_settings_that_the_estimate_then_accepts(finetune):
    text = memory_report(finetune, ZERO, gpu_gib=80)
    assert "16384 tokens and 48 tiles, ZeRO-3 on 8 ranks, 16 bits" in text
    found = re.search(r"fit with these limits: model\.checkpointing=\{vision: (\d+), language: (\d+)\}", text)
    assert found is not None
    again = make("finetune", checkpointing=CheckpointingSection(vision=int(found[1]), language=int(found[2])))
    assert "fits, " in memory_report(again, ZERO, gpu_gib=80)


def test_smaller_limits_are_suggested_where_no_checkpointing_helps(finetune):
    room = estimate(
        footprint(finetune, max_tokens=4096, max_tiles=12, divided=True), ZERO, {"vision": 24, "language": 24}
    ).peak
    text = memory_report(finetune, ZERO, gpu_gib=room / GIB + 0.01)
    assert "fit with these limits" not in text
    assert re.search(r"largest limits tried that fit: data\.max_tokens=(4096|6144) data\.max_tiles=(12|18) ", text)


def test_limits_that_no_frame_fits_are_not_suggested(finetune):
    room = estimate(
        footprint(finetune, max_tokens=4096, max_tiles=12, divided=True), ZERO, {"vision": 24, "language": 24}
    ).peak
    found = re.search(
        r"data\.max_tokens=(\d+) data\.max_tiles=(\d+) ", memory_report(finetune, ZERO, gpu_gib=room / GIB)
    )
    assert found is not None
    tokens, tiles = int(found[1]), int(found[2])
    for least in (PackLimits(max_tokens=1, max_tiles=tiles + 1), PackLimits(max_tokens=tokens + 1, max_tiles=1)):
        text = memory_report(finetune, ZERO, gpu_gib=room / GIB, least=least)
        assert found[0] not in text
        assert f"hold the largest frame with a question ({least.max_tokens} tokens, {least.max_tiles} tiles)" in text
    assert found[0] in memory_report(
        finetune, ZERO, gpu_gib=room / GIB, least=PackLimits(max_tokens=tokens, max_tiles=tiles)
    )


def test_alignment_keeps_nothing_of_the_tower_and_little_state(finetune):
    align = make("align")
    size = footprint(align, max_tokens=16384, max_tiles=48, divided=True)
    assert size.parameters > 2_200_000_000 > 100 * size.trained
    vision, language = size.modules
    assert vision.kept(0) == 0
    assert 0 < language.kept(0) < footprint(finetune, max_tokens=16384, max_tiles=48, divided=True).modules[1].kept(0)
    assert set(size.others) == {"projector"}


def test_distillation_counts_the_teacher_and_the_student():
    stage = make("distill", preset="tiny")
    size = footprint(stage, max_tokens=1, max_tiles=8, divided=True)
    assert size.beside == sum(parameter.numel() for parameter in stage.teacher.parameters())
    assert size.beside > size.parameters
    assert size.beside_divided == 0, "a small teacher is whole on every rank"
    assert [module.name for module in size.modules] == ["vision"]
    assert size.forward_alone > 0
    assert memory_of(stage, ZERO).parts["teacher"] == 2 * size.beside


def test_a_large_teacher_is_divided_where_the_model_is():
    stage = make("distill")
    teacher = sum(parameter.numel() for parameter in stage.teacher.parameters())
    assert teacher > 5e9
    for divided in (True, False):
        size = footprint(stage, max_tokens=1, max_tiles=8, divided=divided)
        assert (size.beside_divided, size.beside) == ((teacher, 0) if divided else (0, teacher))


def test_layers_below_the_first_trained_one_keep_nothing(finetune):
    frozen = make("finetune", preset="tiny")
    for name, parameter in frozen.model.named_parameters():
        if "vision_tower.embeddings" in name or "encoder.layer.0." in name or "encoder.layer.1." in name:
            parameter.requires_grad_(False)
    vision = footprint(frozen, max_tokens=512, max_tiles=8, divided=False).modules[0]
    assert vision.skipped == 2
    assert len(vision.layers) == 2
    assert as_in_recipe(frozen) == {"vision": 0, "language": 0}


def test_kernels_of_the_gpu_that_is_there_count_and_not_those_it_might_have(finetune, monkeypatch):
    assumed = memory_of(finetune, ZERO).peak
    monkeypatch.setattr("trainer.footprint.num_gpus", lambda: 1)
    monkeypatch.setattr("trainer.footprint.choose_fused", lambda wanted, device: SimpleNamespace(name="plain"))
    monkeypatch.setattr("trainer.footprint.choose_backend", lambda *asked: SimpleNamespace(name="varlen"))
    plain = memory_of(finetune, ZERO).peak
    assert plain > assumed + 12 * GIB
    monkeypatch.setattr("trainer.footprint.choose_backend", lambda *asked: SimpleNamespace(name="sdpa"))
    assert memory_of(finetune, ZERO).peak > plain
