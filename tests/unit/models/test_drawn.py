"""Weights drawn one at a time against the stock constructors that draw them all at once."""

import pytest
import torch
from torch import nn
from transformers import InternVLForConditionalGeneration, InternVLVisionModel, LlamaForCausalLM

from models.drawn import DrawnWeights, parameters_on_meta
from models.presets import text_config, vision_config, vlm_preset
from models.projector import LinearProjectorVLM


def _llama() -> LlamaForCausalLM:
    config = text_config("tiny-lm", vocab_size=64)
    config.pad_token_id = 2
    return LlamaForCausalLM(config)


def _vlm(cls: type) -> nn.Module:
    return cls(vlm_preset("tiny-vlm", vocab_size=64, image_token_id=60))


@pytest.mark.parametrize(
    "build",
    [
        _llama,
        lambda: InternVLVisionModel(vision_config("tiny-teacher")),
        lambda: _vlm(InternVLForConditionalGeneration),
        lambda: _vlm(LinearProjectorVLM),
    ],
    ids=["language", "tower", "whole", "linear"],
)
def test_each_parameter_equals_that_of_the_whole_model_in_any_order(build):
    torch.manual_seed(11)
    reference = dict(build().named_parameters())
    state = torch.get_rng_state()
    weights = DrawnWeights(build, 11)
    for name in reversed(reference):
        assert torch.equal(weights.read(name), reference[name]), name
    assert torch.equal(torch.get_rng_state(), state)
    assert len({value.sum().item() for value in reference.values()}) > 10


def test_the_padding_row_is_zero_as_in_the_stock_model():
    row = DrawnWeights(_llama, 3).read("model.embed_tokens.weight")[2]
    assert not row.any()


def test_a_value_that_no_operation_in_place_made_is_refused():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((3,), 2.0))

    with pytest.raises(AssertionError, match="scale"):
        DrawnWeights(Odd, 0).read("scale")


def test_parameters_are_on_the_meta_device_and_buffers_are_not():
    with parameters_on_meta():
        model = _llama()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert torch.equal(model.model.rotary_emb.inv_freq, _llama().model.rotary_emb.inv_freq)
    assert not nn.Linear(2, 2).weight.is_meta
