"""Fused operations against float64, the layers that use them against transformers' own, and their choice at start."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from models.checkpointing import checkpoint_layers, release_layers
from models.fused import PLAIN, FusedError, choose_fused, release_fused, use_fused
from models.fused.choose import liger_operations
from models.packed_vlm import PackedVLM
from models.presets import vision_config
from models.vision import add_drop_path
from models.vlm import build_vision
from tests.helpers.fused import errors, pack_results, states
from tests.helpers.kept import kept_bytes
from tests.unit.models.tiny import tiny_vlm

CPU = torch.device("cpu")
AS_COMPILED = replace(PLAIN, name="compile")
"""The functions that are compiled, without the compiler, which takes its time."""


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_operations_and_their_gradients_equal_float64(dtype, limit):
    assert max(errors(PLAIN, dtype).values()) < limit


def test_compiled_operations_equal_float64_and_keep_what_the_memory_estimate_counts():
    compiled = choose_fused("compile", CPU)
    assert compiled.name == "compile"
    assert max(errors(compiled, torch.bfloat16).values()) < 6e-3
    arguments, _ = states(torch.bfloat16)
    (hidden, weight), others = arguments["rms_norm"]
    hidden.requires_grad_()
    assert kept_bytes(lambda: compiled.rms_norm(hidden, weight, *others)) == 37 * (96 * 2 + 4) + 96 * 2
    gate, up = (part.requires_grad_() for part in arguments["swiglu"][0])
    assert kept_bytes(lambda: compiled.swiglu(gate, up)) == 2 * 37 * 80 * 2


def test_operations_are_those_of_transformers():
    arguments, _ = states(torch.float64)
    (hidden, weight), (epsilon,) = arguments["rms_norm"]
    norm = LlamaRMSNorm(96, eps=epsilon).double()
    norm.weight.data = weight.data
    torch.testing.assert_close(PLAIN.rms_norm(hidden, weight, epsilon), norm(hidden), rtol=1e-6, atol=1e-6)
    (query, key), (cos, sin) = arguments["rotary"]
    for mine, stock in zip(PLAIN.rotary(query, key, cos, sin), apply_rotary_pos_emb(query, key, cos, sin), strict=True):
        torch.testing.assert_close(mine, stock, rtol=0, atol=0)


def test_a_pack_through_fused_layers_equals_one_through_stock_layers():
    _, stock, stock_gradients = pack_results(PLAIN)
    counted = {name: 0 for name in ("rms_norm", "swiglu", "rotary")}

    def counting(name):
        def call(*args):
            counted[name] += 1
            return getattr(PLAIN, name)(*args)

        return call

    vlm, fused, gradients = pack_results(replace(AS_COMPILED, **{name: counting(name) for name in counted}))
    assert counted == {"rms_norm": 9, "swiglu": 4, "rotary": 4}
    torch.testing.assert_close(fused, stock, rtol=1e-4, atol=1e-5)
    for name, gradient in stock_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_a_tower_with_rms_norms_is_the_same_with_fused_ones():
    tower = build_vision(vision_config("tiny-teacher"), torch.Generator().manual_seed(0)).eval()
    pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        stock = tower(pixels).last_hidden_state
        assert use_fused(tower, AS_COMPILED) == 5 * 4 + 5
        torch.testing.assert_close(tower(pixels).last_hidden_state, stock, rtol=1e-4, atol=1e-5)


def tower_results(tower, pixels):
    """Last states and all gradients of a training pass, with the same branches dropped each time."""
    torch.manual_seed(5)
    out = tower(pixels).last_hidden_state
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    parameters = dict(tower.named_parameters())
    gradients = torch.autograd.grad((out * weights).sum(), list(parameters.values()))
    return out.detach(), dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_trained_layer_with_its_scales_and_dropped_branches_is_the_same_in_fewer_passes(checkpointed):
    config = vision_config("tiny-student")
    tower = build_vision(config, torch.Generator().manual_seed(0)).double().train()
    add_drop_path(tower, 0.5)
    for layer in tower.encoder.layer:
        for scale in (layer.lambda_1, layer.lambda_2):
            torch.nn.init.normal_(scale, mean=0.5, generator=torch.Generator().manual_seed(2))
    pixels = torch.randn(6, 3, 112, 112, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    stock, stock_gradients = tower_results(tower, pixels)
    layers, calls = tower.encoder.layer, []
    assert use_fused(tower, AS_COMPILED) >= len(layers)
    layers[0].attention.register_forward_hook(lambda *ignored: calls.append(1))
    if checkpointed:
        checkpoint_layers(layers)
    fused, gradients = tower_results(tower, pixels)
    assert len(calls) == 1 + checkpointed
    torch.testing.assert_close(fused, stock, rtol=1e-12, atol=1e-12)
    for name, gradient in stock_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-9, msg=name)
    release_layers(layers)
    assert all("forward" in vars(layer) for layer in layers), "they stay fused"
    release_fused(tower)
    assert not any("forward" in vars(layer) for layer in layers)


def cross_entropy_results(operation, logits, targets):
    leaf = logits.detach().clone().requires_grad_()
    losses = operation(leaf, targets)
    weights = torch.linspace(0.1, 1, len(targets), dtype=losses.dtype)
    return losses.detach(), *torch.autograd.grad((losses * weights).sum(), [leaf])


@pytest.mark.parametrize("compiled", [False, True])
def test_cross_entropy_equals_float64_and_keeps_the_logits_as_they_are_where_it_is_compiled(compiled):
    operation = (choose_fused("compile", CPU) if compiled else PLAIN).cross_entropy
    generator = torch.Generator().manual_seed(0)
    for rows in (37, 1, 0):
        logits = torch.randn(rows, 500, generator=generator).mul(4).bfloat16()
        targets = torch.randint(500, (rows,), generator=generator)
        wide = logits.double()
        losses, gradient = cross_entropy_results(operation, logits, targets)
        exact = wide.logsumexp(-1) - wide.gather(1, targets[:, None])[:, 0]
        onehot = torch.nn.functional.one_hot(targets, 500)
        wanted = (wide.softmax(-1) - onehot) * torch.linspace(0.1, 1, rows, dtype=torch.float64)[:, None]
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient.double(), wanted, rtol=8e-3, atol=1e-5)
        if rows == 37:
            leaf = logits.requires_grad_()
            kept = kept_bytes(lambda leaf=leaf, targets=targets: operation(leaf, targets))
            assert kept < rows * (500 * 2 + 32) if compiled else kept > rows * 500 * 4


def test_plain_changes_nothing_and_release_takes_everything_out():
    vlm = tiny_vlm()
    assert use_fused(vlm, PLAIN) == 0
    assert use_fused(vlm, AS_COMPILED) > 0
    assert any("forward" in vars(module) for module in vlm.modules())
    release_fused(vlm)
    assert not any("forward" in vars(module) for module in vlm.modules())
    model = PackedVLM(vlm, operations=AS_COMPILED)
    assert not any("forward" in vars(module) for module in model.release().modules())


def test_other_activations_are_left_as_they_are():
    vlm = tiny_vlm()
    plain = use_fused(vlm, AS_COMPILED)
    release_fused(vlm)
    vlm.model.language_model.config.hidden_act = "gelu"
    assert use_fused(vlm, AS_COMPILED) == plain - 4


def test_a_cpu_takes_plain_layers_by_itself_and_says_why():
    chosen = choose_fused("auto", CPU)
    assert chosen.name == "plain"
    assert "not liger: needs a CUDA device" in chosen.announcement
    assert "not compile: takes longer than it saves" in chosen.announcement


def test_kernels_that_are_not_to_be_had_are_refused_with_those_that_are():
    with pytest.raises(
        FusedError, match="kernels: got 'liger', expected one of auto, compile, plain here: liger needs"
    ):
        choose_fused("liger", CPU)
    with pytest.raises(FusedError, match="got 'lige', .*did you mean 'liger'"):
        choose_fused("lige", CPU)


def test_ligers_functions_get_what_they_take():
    """Under the signatures of liger-kernel 0.8; the kernels themselves are compared in tests/gpu."""

    def liger_rms_norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True):
        assert not in_place, "gradients of others would be overwritten"
        return PLAIN.rms_norm(X, W, eps)

    def liger_rope(q, k, cos, sin, position_ids=None, unsqueeze_dim=1):
        return PLAIN.rotary(q, k, cos, sin)

    functions = SimpleNamespace(liger_rms_norm=liger_rms_norm, liger_swiglu=lambda a, b: PLAIN.swiglu(a, b))
    functions.liger_rope = liger_rope
    assert max(errors(liger_operations(functions, "said"), torch.float64).values()) < 1e-14
