"""The two projectors."""

import pytest
import torch
from transformers import InternVLForConditionalGeneration

from models.projector import LinearProjectorVLM, vlm_class
from tests.unit.models.tiny import tiny_vlm


def test_both_projectors_map_a_tile_to_its_tokens():
    for kind in ("mlp", "linear"):
        vlm = tiny_vlm(projector=kind)
        out = vlm.get_image_features(torch.zeros(2, 3, 112, 112), return_dict=True).pooler_output
        assert out.shape == (2, 16, 128)


def test_the_linear_projector_is_affine_in_its_normalised_input():
    projector = tiny_vlm(projector="linear").model.multi_modal_projector
    x = torch.randn(1, 5, 384, generator=torch.Generator().manual_seed(0))
    by_hand = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = by_hand @ projector.linear.weight.T + projector.linear.bias
    assert (projector(x) - expected).abs().max() < 1e-5


def test_an_unknown_projector_is_refused():
    assert vlm_class("mlp") is InternVLForConditionalGeneration
    assert vlm_class("linear") is LinearProjectorVLM
    with pytest.raises(ValueError, match="got 'qformer', expected one of mlp, linear"):
        vlm_class("qformer")
