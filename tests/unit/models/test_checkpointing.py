"""Activation checkpointing: the same gradients from layer inputs alone, in every mode the stages use."""

import pytest
import torch

from models.attention import pack_layout
from models.attention.base import Backend
from models.attention.two_pass import TwoPassPlan
from models.checkpointing import CheckpointingError, checkpoint_layers, num_checkpointed, release_layers
from models.packed_vlm import PackedVLM
from models.vision import add_drop_path
from tests.helpers.plain_kernel import PlainKernel
from tests.unit.models.tiny import tiny_pack, tiny_vlm

PLAIN = Backend(
    name="varlen", vision="sdpa", plan=lambda groups: TwoPassPlan.of(groups, kernel=PlainKernel()), announcement=""
)


def layers_of(wrapper: PackedVLM):
    model = wrapper.vlm.model
    return [*model.vision_tower.encoder.layer], [*model.language_model.layers]


def gradients(vision: int, language: int, *, backend=None, prepare=lambda wrapper: None, drop_path: float = 0.0):
    """Of a small loss, by name, with so many layers checkpointed; and how often a layer's MLP ran."""
    wrapper = PackedVLM(tiny_vlm()).train()
    add_drop_path(wrapper.vlm.model.vision_tower, drop_path)
    prepare(wrapper)
    towers = layers_of(wrapper)
    runs = []
    for tower, count in zip(towers, (vision, language), strict=True):
        for layer in tower:
            layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
        checkpoint_layers(tower[:count])
    pack = tiny_pack((1, 2), ((5, 6), (7, 3)))
    layout = pack_layout(pack.groups, pack.segment_ids, backend)
    torch.manual_seed(5)
    out = wrapper(pack.input_ids, pack.position_ids, pack.pixels, layout, pack.label_positions)
    out.logsumexp(-1).sum().backward()
    return {name: p.grad for name, p in wrapper.named_parameters() if p.grad is not None}, len(runs)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert len(ours) > 0
    for name, gradient in theirs.items():
        assert torch.equal(ours[name], gradient), name


@pytest.mark.parametrize("backend", [None, PLAIN], ids=["sdpa", "two passes"])
@pytest.mark.parametrize(("vision", "language"), [(4, 4), (1, 3), (0, 2), (3, 0)])
def test_gradients_are_the_same_bits_and_so_many_layers_run_twice(vision, language, backend):
    plain, runs = gradients(0, 0, backend=backend)
    checkpointed, more_runs = gradients(vision, language, backend=backend)
    assert_equal(checkpointed, plain)
    assert more_runs == runs + vision + language


def test_drop_path_drops_the_same_branches_in_the_second_run():
    plain, _ = gradients(0, 0, drop_path=0.6)
    assert_equal(gradients(4, 0, drop_path=0.6)[0], plain)
    without, _ = gradients(0, 0)
    assert any(not torch.equal(without[name], gradient) for name, gradient in plain.items()), "nothing was dropped"


def test_frozen_parts_in_evaluation_mode_are_checkpointed_as_well():
    def freeze(wrapper):
        wrapper.requires_grad_(False).eval()
        wrapper.vlm.model.multi_modal_projector.requires_grad_(True)

    plain, runs = gradients(0, 0, prepare=freeze)
    checkpointed, more_runs = gradients(0, 4, prepare=freeze)
    assert_equal(checkpointed, plain)
    assert all("multi_modal_projector" in name for name in plain)
    assert more_runs == runs + 4


def test_only_the_input_of_a_checkpointed_layer_is_kept():
    layers = layers_of(PackedVLM(tiny_vlm()))[0]
    hidden = torch.randn(2, 65, 96, requires_grad=True)

    def kept(checkpointed):
        (checkpoint_layers if checkpointed else release_layers)(layers)
        storages = {}

        def keep(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = {p.untyped_storage().data_ptr() for layer in layers for p in layer.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            states = hidden
            for layer in layers:
                states = layer(states)
        return sum(size for place, size in storages.items() if place not in weights)

    one = hidden.numel() * 4
    assert kept(True) <= len(layers) * one
    assert kept(False) > 10 * len(layers) * one


def test_released_layers_are_the_stock_ones_again():
    wrapper = PackedVLM(tiny_vlm())
    vision, language = layers_of(wrapper)
    checkpoint_layers([*vision, *language])
    checkpoint_layers(vision)
    assert all("forward" in vars(layer) for layer in (*vision, *language))
    wrapper.release()
    assert not any("forward" in vars(layer) for layer in (*vision, *language))


def test_more_layers_than_there_are_are_refused():
    layers = layers_of(PackedVLM(tiny_vlm()))[1]
    assert num_checkpointed("f", "all", layers) == 4
    assert num_checkpointed("f", 3, layers) == 3
    with pytest.raises(CheckpointingError, match=r"model\.x: got 5, expected 0 to 4"):
        num_checkpointed("model.x", 5, layers)
