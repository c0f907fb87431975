"""Parameter groups and the schedule."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from models.distill_heads import DistillStudent
from models.presets import vision_config
from models.vlm import build_vision
from trainer.optim import lr_factor, module_of, parameter_groups, training_table
from trainer.recipe import DataSection, LearningRates, OptimSection, Recipe, WeightDecays
from trainer.stages.distill import DistillStage
from trainer.stages.vlm import VlmStage


def _recipe(**optim: object) -> Recipe:
    data = DataSection(datasets=())
    return Recipe(stage="distill", run_dir=Path("r"), steps=100, data=data, optim=OptimSection(**optim))


def test_schedule_warms_up_linearly_then_falls_to_its_floor():
    recipe = _recipe(warmup=10, schedule="cosine", min_lr=0.1)
    assert [lr_factor(step, recipe) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert lr_factor(10, recipe) == 1.0
    assert lr_factor(55, recipe) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert lr_factor(100, recipe) == pytest.approx(0.1)


def test_linear_and_constant_schedules():
    assert lr_factor(50, _recipe(warmup=0, schedule="linear")) == pytest.approx(0.5)
    assert lr_factor(99, _recipe(warmup=0, schedule="constant")) == 1.0


def test_every_trainable_parameter_is_in_exactly_one_group():
    tower = build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0))
    student = DistillStudent(tower, 160, 2)
    student.tower.embeddings.requires_grad_(False)
    groups = parameter_groups(student.named_parameters(), DistillStage.modules, OptimSection())
    found = [id(p) for group in groups for p in group.parameters]
    assert sorted(found) == sorted(id(p) for p in student.parameters() if p.requires_grad)
    assert [group.name for group in groups] == ["bridge/decay", "bridge/no_decay", "vision/decay", "vision/no_decay"]


def test_norms_biases_scales_and_embeddings_are_not_decayed():
    tower = build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0))
    student = DistillStudent(tower, 160, 2)
    names = {id(p): name for name, p in student.named_parameters()}
    groups = parameter_groups(
        student.named_parameters(), DistillStage.modules, OptimSection(weight_decay=WeightDecays.from_number(0.3))
    )
    for group in groups:
        assert group.weight_decay == (0.3 if group.name.endswith("/decay") else 0.0)
        for parameter in group.parameters:
            name = names[id(parameter)]
            plain = any(part in name for part in ("norm", "bias", "lambda", "cls_token", "position_embeddings"))
            assert plain == (group.weight_decay == 0.0), name


def test_rates_are_those_of_the_module():
    rates = LearningRates(vision=1.0, projector=2.0, language=3.0, bridge=4.0)
    named = [
        ("vlm.model.vision_tower.x", nn.Parameter(torch.zeros(2, 2))),
        ("vlm.model.multi_modal_projector.x", nn.Parameter(torch.zeros(2, 2))),
        ("vlm.model.language_model.x", nn.Parameter(torch.zeros(2, 2))),
        ("vlm.lm_head.weight", nn.Parameter(torch.zeros(2, 2))),
    ]
    groups = parameter_groups(named, VlmStage.modules, OptimSection(lr=rates))
    assert {group.module: group.lr for group in groups} == {"vision": 1.0, "projector": 2.0, "language": 3.0}
    assert module_of("vlm.lm_head.weight", VlmStage.modules) == "language"


def _tower_groups(**optim: object):
    tower = build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0))
    student = DistillStudent(tower, 160, 2)
    names = {id(p): name for name, p in student.named_parameters()}
    return names, parameter_groups(student.named_parameters(), DistillStage.modules, OptimSection(**optim))


def test_decay_is_that_of_the_module():
    decays = WeightDecays(vision=0.1, projector=0.2, language=0.3, bridge=0.4)
    _, groups = _tower_groups(weight_decay=decays)
    found = {group.name: group.weight_decay for group in groups}
    assert found == {"bridge/decay": 0.4, "bridge/no_decay": 0.0, "vision/decay": 0.1, "vision/no_decay": 0.0}


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("norms", ("layernorm_before.weight", "layernorm_after.weight")),
        ("biases", (".bias",)),
        ("layer_scale", ("lambda_1", "lambda_2")),
        ("embeddings", ("cls_token", "position_embeddings")),
    ],
)
def test_each_kind_may_be_left_out_of_decay_alone(kind, parts):
    names, groups = _tower_groups(no_decay=(kind,))
    spared = {names[id(p)] for group in groups if group.weight_decay == 0.0 for p in group.parameters}
    assert spared == {name for name in names.values() if name.endswith(parts)}
    assert len(spared) > 0


def test_nothing_is_spared_where_no_kind_is_named():
    _, groups = _tower_groups(no_decay=())
    assert [group.name for group in groups] == ["bridge/decay", "vision/decay"]


def test_layer_decay_lowers_the_rate_from_layer_to_layer():
    names, groups = _tower_groups(layer_decay=0.5, lr=LearningRates(vision=1.0, bridge=3.0))
    rate_of = {names[id(p)]: group.lr for group in groups for p in group.parameters}
    assert len(rate_of) == len(names), "a parameter is missing"
    for name, rate in rate_of.items():
        if name.startswith("bridges."):
            assert rate == 3.0
        elif ".embeddings." in name:
            assert rate == 0.5**4
        else:
            layer = int(name.split("encoder.layer.")[1].split(".")[0])
            assert rate == 0.5 ** (3 - layer), name
    assert {group.name for group in groups if "layer03" in group.name} == {
        "vision/layer03/decay",
        "vision/layer03/no_decay",
    }


def test_rates_of_layers_do_not_depend_on_what_is_frozen():
    tower = build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0))
    student = DistillStudent(tower, 160, 1)
    student.tower.encoder.layer[3].requires_grad_(False)
    optim = OptimSection(layer_decay=0.5, lr=LearningRates(vision=1.0))
    groups = parameter_groups(student.named_parameters(), DistillStage.modules, optim)
    assert {group.lr for group in groups if "layer02" in group.name} == {0.5}


def test_table_counts_frozen_parameters_apart():
    frozen = nn.Parameter(torch.zeros(3, 5), requires_grad=False)
    named = [("tower.a", frozen), ("bridges.w", nn.Parameter(torch.zeros(2, 2)))]
    groups = parameter_groups(named, DistillStage.modules, OptimSection())
    rows = {
        line.split()[0]: line.split()[1:] for line in training_table(named, DistillStage.modules, groups).splitlines()
    }
    assert rows["vision"] == ["15", "0", "frozen", "-"]
    assert rows["bridge"] == ["4", "4", "0.001", "0.01"]
    assert rows["all"] == ["19", "4"]


def test_table_shows_the_lowest_and_the_highest_rate_of_a_modules_layers():
    tower = build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0))
    named = list(DistillStudent(tower, 160, 1).named_parameters())
    groups = parameter_groups(named, DistillStage.modules, OptimSection(layer_decay=0.5))
    table = training_table(named, DistillStage.modules, groups)
    assert "6.25e-07 to 1e-05" in next(line for line in table.splitlines() if line.startswith("vision"))
