"""Pixels, features of the last layers, DropPath."""

import numpy as np
import pytest
import torch
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from models.presets import vision_config
from models.vision import (
    IMAGE_MEAN,
    IMAGE_STD,
    DropPath,
    TowerFeatures,
    add_drop_path,
    normalise_tiles,
    patch_features,
)
from models.vlm import build_vision


def tower(name: str = "tiny-student") -> torch.nn.Module:
    return build_vision(vision_config(name), torch.Generator().manual_seed(0))


def pixels(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 112, 112, generator=torch.Generator().manual_seed(1))


def test_normalised_tiles_equal_those_of_the_stock_processor():
    tiles = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    processor = GotOcr2ImageProcessorPil(
        size={"height": 112, "width": 112}, crop_to_patches=False, image_mean=IMAGE_MEAN, image_std=IMAGE_STD
    )
    stock = processor(images=list(tiles), return_tensors="pt")["pixel_values"]
    assert (normalise_tiles(torch.from_numpy(tiles)) - stock).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["tiny-student", "tiny-teacher"])
@pytest.mark.parametrize("last_k", [1, 3])
def test_features_are_the_towers_own_hidden_states(name, last_k):
    model = tower(name).eval()
    stock = model(pixels(), output_hidden_states=True)
    ours = patch_features(model, pixels(), last_k)
    assert len(ours) == last_k
    for mine, reference in zip(ours, stock.hidden_states[-last_k:], strict=True):
        assert mine.shape == (3, 65, model.config.hidden_size)
        assert torch.equal(mine, reference)
    assert torch.equal(ours[-1], stock.last_hidden_state)


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(AssertionError, match="last_k 5 of 4"):
        patch_features(tower(), pixels(1), 5)


def test_drop_path_is_off_in_evaluation_and_on_in_training():
    plain, dropped = tower(), tower()
    add_drop_path(dropped, 0.5)
    assert plain.state_dict().keys() == dropped.state_dict().keys()
    reference = plain.eval()(pixels()).last_hidden_state
    assert torch.equal(dropped.eval()(pixels()).last_hidden_state, reference)
    torch.manual_seed(0)
    assert not torch.allclose(dropped.train()(pixels()).last_hidden_state, reference)


def test_drop_path_rate_grows_linearly_with_depth():
    model = tower()
    add_drop_path(model, 0.1)
    add_drop_path(model, 0.3)
    for branch in ("attention.projection_dropout", "dropout"):
        rates = [layer.get_submodule(branch).rate for layer in model.encoder.layer]
        assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_drop_path_drops_whole_tiles_and_keeps_the_mean():
    torch.manual_seed(0)
    out = DropPath(0.25).train()(torch.ones(20000, 2, 3))
    kept = out[:, 0, 0] > 0
    assert torch.equal(out, kept[:, None, None] * torch.full_like(out, 1 / 0.75))
    assert 0.73 < float(kept.float().mean()) < 0.77


def test_a_kept_branch_and_its_gradient_are_scaled_in_float32_and_rounded_once():
    generator = torch.Generator().manual_seed(0)
    branch = torch.randn(8, 5, 16, generator=generator).bfloat16().requires_grad_()
    torch.manual_seed(1)
    out = DropPath(0.3).train()(branch)
    kept = (out != 0).flatten(1).any(1)
    assert 0 < kept.sum() < 8
    exact = (branch.detach().float() * (torch.tensor(1.0) / (1.0 - 0.3))).bfloat16()
    assert torch.equal(out[kept], exact[kept])
    (gradient,) = torch.autograd.grad(out, [branch], torch.ones_like(out))
    assert gradient.unique().tolist() == [0.0, float(torch.tensor(1 / 0.7).bfloat16())]


def test_a_dropped_branch_passes_its_input_on():
    model = tower().train()
    add_drop_path(model, 0.5)
    layer = model.encoder.layer[-1]
    layer.attention.projection_dropout.rate = layer.dropout.rate = 1.0 - 1e-9
    hidden = torch.randn(2, 65, 96)
    torch.manual_seed(0)
    assert torch.equal(layer(hidden), hidden)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match="drop_path"):
        add_drop_path(tower(), rate)


def test_a_tower_with_dropout_of_its_own_is_refused():
    config = vision_config("tiny-student")
    config.hidden_dropout_prob = 0.1
    with pytest.raises(ValueError, match="hidden_dropout_prob 0.1"):
        add_drop_path(build_vision(config, torch.Generator().manual_seed(0)), 0.1)


def test_a_frozen_tower_inside_a_training_model_drops_nothing():
    teacher = tower()
    add_drop_path(teacher, 0.5)
    reference = patch_features(tower().eval(), pixels(), 2)
    features = TowerFeatures(teacher.train())
    assert not teacher.training
    for mine, other in zip(features(pixels(), 2), reference, strict=True):
        assert torch.equal(mine, other)
        assert not mine.requires_grad
    torch.nn.ModuleList([features]).train()
    for mine, other in zip(features(pixels(), 2), reference, strict=True):
        assert torch.equal(mine, other)
