"""The memory estimate: parts by hand for a full-size model, and what more ranks, stages and offload change."""

import pytest

from models.activations import LayerBytes, ModuleBytes, vision_layer
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


SMALL = Footprint(
    parameters=1000,
    trained=600,
    beside=50,
    beside_divided=200,
    modules=(
        ModuleBytes(name="vision", layers=(LayerBytes(whole=900, input=90, working=70, flops=0),) * 3, ends=11),
        ModuleBytes(name="language", layers=(LayerBytes(whole=800, input=80, working=60, flops=0),) * 2, ends=13),
    ),
    others={"projector": 17},
    loss=(19, 23),
    forward_alone=1500,
    tiles=29,
)
SMALL_STATE = {
    "weights": 2 * 1000 / 4,
    "gradients": 2 * 600 / 4,
    "optimiser": 12 * 600 / 4,
    "gathered parameters": 2 * 700 + 2 * 200,
    "reduction buckets": 2 * 30,
    "teacher": 2 * 50 + 2 * 200 / 4,
    "tiles": 29,
}


def test_every_part_of_a_step_by_hand():
    memory = estimate(SMALL, zero(3, 4, reduce_bucket=30, live=700), {}, gpu=False)
    assert memory.parts == SMALL_STATE | {
        "activations: vision": 11 + 3 * 900,
        "activations: language": 13 + 2 * 800,
        "activations: projector": 17,
        "activations: loss": 19,
        "for a moment": 60 - 19,  # the last layer's backward pass, the loss being gone
    }
    assert memory.peak == 500 + 300 + 1800 + 1800 + 60 + 200 + 29 + 2711 + 1613 + 17 + 19 + 41


def test_every_part_of_a_step_with_checkpointed_layers_by_hand():
    settings = zero(3, 4, reduce_bucket=30, live=700)
    memory = estimate(SMALL, settings, {"vision": 2, "language": 2}, gpu=False)
    vision, language = 11 + 2 * 90 + 900, 13 + 2 * 80
    assert memory.parts == SMALL_STATE | {
        "activations: vision": vision,
        "activations: language": language,
        "activations: projector": 17,
        "activations: loss": 19,
        "for a moment": 800 + 60 - 19,  # the last layer has run again
    }
    every = estimate(SMALL, settings, {"vision": 3, "language": 2}, gpu=False)
    kept = 11 + 3 * 90 + language + 17 + 19
    assert every.parts["for a moment"] == 1500 - kept  # of a frozen tower, before anything is kept


def test_a_gpu_needs_a_context_and_three_hundredths_of_the_rest():
    settings = zero(3, 4)
    rest = estimate(SMALL, settings, {}, gpu=False)
    assert estimate(SMALL, settings, {}).parts["reserve (assumed)"] == 1.5 * GIB + 0.03 * rest.peak
    assert "reserve (assumed)" not in rest.parts


@pytest.mark.parametrize(
    ("stage", "overlap", "item", "size"),
    [(0, True, 2, 0), (1, False, 2, 2), (1, True, 2, 4), (2, True, 4, 8), (3, False, 4, 4), (3, True, 2, 2)],
)
def test_gradients_are_reduced_in_a_bucket_and_in_two_where_that_overlaps(stage, overlap, item, size):
    settings = zero(stage, 8, overlap=overlap, item=item, reduce_bucket=7)
    assert model_state(footprint(), settings)[0].get("reduction buckets", 0) == 7 * size
    assert estimate(footprint(), settings, {}).parts.get("reduction buckets", 0) == 7 * size


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"stage": 0}, 4),
        ({"stage": 1}, (2 + 4) / 8),
        ({"stage": 3}, (2 + 4) / 8),
        ({"stage": 2, "item": 4}, 4 / 8),
        ({"stage": 1, "offload_optimizer": True}, 0),
    ],
)
def test_an_update_holds_gradients_end_to_end_and_in_float32(changes, size):
    nothing = footprint(modules=(), others={}, loss=(0.0, 0.0))
    memory = estimate(nothing, zero(**{"ranks": 8, **changes}), {}, gpu=False)
    assert memory.parts["for a moment"] == size * VLM


def test_an_offloaded_optimiser_leaves_the_gradients_of_zero_2_on_the_gpu():
    parts, host = model_state(footprint(), zero(2, 8, offload_optimizer=True))
    assert (parts["weights"], parts["gradients"], parts["optimiser"]) == (2 * VLM, 2 * VLM / 8, 0)
    assert host == (2 + 12) * VLM / 8


def test_an_offloaded_part_of_a_teacher_is_on_the_host_and_gathered_on_one_rank_too():
    parts, host = model_state(SMALL, zero(3, 1, offload_param=True))
    assert (parts["weights"], parts["teacher"]) == (0, 2 * 50)
    assert parts["gathered parameters"] == 2 * 1000 + 2 * 200
    assert host == 2 * 1000 + 2 * 200
    assert f"{host / GIB:.2f}" in table(estimate(SMALL, zero(3, 1, offload_param=True), {}), "").splitlines()[-1]
    assert "host" not in table(estimate(SMALL, zero(3, 1), {}), "")


@pytest.mark.parametrize(("given", "overlaps"), [({"stage": 3}, True), ({"stage": 2}, False)])
def test_reduction_overlaps_as_deepspeed_does_where_nothing_is_said(given, overlaps):
    assert Zero.of({"zero_optimization": given}, 8).overlap is overlaps
    assert Zero.of({"zero_optimization": {**given, "overlap_comm": not overlaps}}, 8).overlap is not overlaps
    assert Zero.of({"zero_optimization": given}, 8).reduce_bucket == 500_000_000
    assert Zero.of({"zero_optimization": given}, 8).live == 1_000_000_000


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
    assert Zero.of({"fp16": {"enabled": True}}, 1).item == 2
    assert Zero.of({}, 1).item == 4


def test_the_table_names_every_part_and_their_sum():
    memory = estimate(footprint(), zero(3, 8), {})
    text = table(memory, "title")
    assert all(name in text for name in memory.parts)
    assert f"{memory.peak / GIB:.2f}" in text
    assert sum(memory.parts.values()) == memory.peak
