"""The memory estimate: parts by hand for a full-size model, and what more ranks, stages and offload change."""

import pytest

from models.activations import ModuleBytes, vision_layer
from models.presets import vision_config
from trainer.memory import GIB, Footprint, Zero, estimate, model_state, table

LAYER = vision_layer(vision_config("internvit-300m"), 48, 2)
VLM = 2_205_754_368


def footprint(**changes):
    settings = {
        "parameters": VLM,
        "trained": VLM,
        "modules": (ModuleBytes(name="vision", layers=(LAYER,) * 24),),
        "others": {"projector": 1e8},
        "loss": (1e9, 2e9),
        "forward_alone": 0.0,
        "tiles": 5e7,
    }
    return Footprint(**settings | changes)


def zero(stage, ranks, **changes):
    return Zero(**{"stage": stage, "world_size": ranks, "item": 2, "reduce_bucket": 10**8, "live": 10**9} | changes)


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimiser"),
    [(0, 2, 2, 12), (1, 2, 2, 12 / 8), (2, 2, 2 / 8, 12 / 8), (3, 2 / 8, 2 / 8, 12 / 8)],
)
def test_bytes_a_parameter_by_stage_are_those_of_the_zero_paper(stage, weights, gradients, optimiser):
    parts, host = model_state(footprint(), zero(stage, 8))
    assert parts["weights"] == weights * VLM
    assert parts["gradients"] == gradients * VLM
    assert parts["optimiser"] == optimiser * VLM
    assert host == 0


def test_only_trained_parameters_have_gradients_and_optimiser_state():
    parts, _ = model_state(footprint(trained=1_000_000), zero(1, 2))
    assert parts["weights"] == 2 * VLM
    assert parts["gradients"] == 2_000_000
    assert parts["optimiser"] == 6_000_000


def test_gradients_that_are_added_up_in_float32_take_four_bytes():
    config = {"bf16": {"enabled": True}, "zero_optimization": {"stage": 3}}
    precise = Zero.of(config | {"data_types": {"grad_accum_dtype": "fp32"}}, 8)
    assert model_state(footprint(), precise)[0]["gradients"] == 4 * VLM / 8
    assert model_state(footprint(), Zero.of(config, 8))[0]["gradients"] == 2 * VLM / 8


def test_offload_moves_state_to_the_host():
    parts, host = model_state(footprint(), zero(3, 4, offload_optimizer=True, offload_param=True))
    assert parts["weights"] == parts["gradients"] == parts["optimiser"] == 0
    assert parts["gathered parameters"] == 2 * 10**9
    assert host == pytest.approx((2 + 2 + 12) * VLM / 4)


def test_parameters_are_gathered_only_where_there_are_others_to_gather_from():
    assert "gathered parameters" not in model_state(footprint(), zero(3, 1))[0]
    assert model_state(footprint(), zero(3, 2))[0]["gathered parameters"] == 2 * 10**9
    assert model_state(footprint(), zero(3, 2, live=10**10))[0]["gathered parameters"] == 2 * VLM
    assert "gathered parameters" not in model_state(footprint(), zero(2, 2))[0]


@pytest.mark.parametrize(("divided", "ranks", "held"), [(False, 8, 1.0), (True, 8, 1 / 8), (True, 1, 1.0)])
def test_a_teacher_is_whole_or_divided(divided, ranks, held):
    teacher = 5_536_496_000
    beside = {"beside_divided" if divided else "beside": teacher}
    parts, _ = model_state(footprint(**beside), zero(3, ranks))
    assert parts["teacher"] == 2 * teacher * held
    alone = model_state(footprint(), zero(3, ranks))[0].get("gathered parameters", 0)
    assert parts.get("gathered parameters", 0) - alone == (2 * 10**9 if divided and ranks > 1 else 0)


def test_more_checkpointed_layers_never_take_more_memory():
    peaks = [estimate(footprint(), zero(1, 8), {"vision": count}).peak for count in range(25)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] - peaks[-1] > 20 * (LAYER.whole - LAYER.input)


def test_the_peak_is_at_the_loss_the_backward_pass_or_the_update():
    settings = zero(3, 1)
    at_loss = footprint(loss=(1e9, 9e10))
    assert estimate(at_loss, settings, {}, gpu=False).parts["for a moment"] == pytest.approx(9e10)
    at_update = estimate(footprint(modules=(), others={}, loss=(0.0, 0.0)), settings, {}, gpu=False)
    assert at_update.parts["for a moment"] == (2 + 4) * VLM  # laid end to end in 16 bits, and in float32
    teacher = footprint(modules=(), others={}, loss=(0.0, 0.0), forward_alone=5e10)
    assert estimate(teacher, settings, {}, gpu=False).parts["for a moment"] == 5e10


def test_settings_are_read_from_the_deepspeed_configuration():
    config = {
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "cpu"},
            "reduce_bucket_size": 7,
            "stage3_max_live_parameters": 9,
        },
    }
    read = Zero.of(config, 64)
    assert (read.stage, read.world_size, read.item, read.reduce_bucket, read.live) == (3, 64, 2, 7, 9)
    assert read.offload_optimizer
    assert not read.offload_param
    assert Zero.of({}, 1).item == 4


def test_the_table_names_every_part_and_their_sum():
    memory = estimate(footprint(), zero(3, 8), {})
    text = table(memory, "title")
    assert all(name in text for name in memory.parts)
    assert f"{memory.peak / GIB:.2f}" in text
    assert sum(memory.parts.values()) == memory.peak
