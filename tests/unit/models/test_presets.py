"""Sizes of the presets, on the meta device."""

import pytest
import torch
from transformers import InternVLForConditionalGeneration, InternVLVisionModel, LlamaForCausalLM

from models.presets import PresetError, image_tokens_per_tile, text_config, vision_config, vlm_config, vlm_preset


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "count"), [("internvit-6b", 5_536_496_000), ("internvit-300m", 304_012_288)])
def test_towers_have_the_published_number_of_parameters(name, count):
    with torch.device("meta"):
        assert parameters(InternVLVisionModel(vision_config(name))) == count


def test_the_whole_model_has_the_published_number_of_parameters():
    with torch.device("meta"):
        vlm = InternVLForConditionalGeneration(vlm_preset("drivlm-2b"))
    assert parameters(vlm) == 2_205_754_368
    assert parameters(vlm.model.language_model) + parameters(vlm.lm_head) == 1_889_146_880
    assert parameters(vlm.model.multi_modal_projector) == 12_595_200
    assert vlm.config.image_token_id == 92546
    assert vlm.lm_head.weight is not vlm.get_input_embeddings().weight


@pytest.mark.parametrize("name", ["tiny-teacher", "tiny-student"])
def test_tiny_towers_see_sixty_four_patches(name):
    config = vision_config(name)
    with torch.device("meta"):
        hidden = InternVLVisionModel(config)(torch.zeros(2, 3, 112, 112)).last_hidden_state
    assert hidden.shape == (2, 65, config.hidden_size)
    assert image_tokens_per_tile(config) == 16


def test_the_tiny_teacher_is_shaped_as_the_6b_one():
    tiny, full = vision_config("tiny-teacher"), vision_config("internvit-6b")
    for field in ("norm_type", "use_qk_norm", "attention_bias", "layer_scale_init_value"):
        assert getattr(tiny, field) == getattr(full, field), field


def test_the_tiny_language_model_takes_its_vocabulary():
    with torch.device("meta"):
        assert LlamaForCausalLM(text_config("tiny-lm", vocab_size=77)).lm_head.weight.shape == (77, 128)
    with pytest.raises(PresetError, match="pass vocab_size"):
        text_config("tiny-lm")


def test_the_whole_tiny_model_is_untied_and_knows_its_tile():
    config = vlm_preset("tiny-vlm", vocab_size=50, image_token_id=9)
    assert config.tie_word_embeddings is False
    assert config.image_seq_length == 16
    with pytest.raises(PresetError, match="no image_token_id"):
        vlm_preset("tiny-vlm", vocab_size=50)
    with pytest.raises(PresetError, match="below the vocabulary size 50"):
        vlm_config(vision_config("tiny-student"), text_config("tiny-lm", vocab_size=50), 50)


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(PresetError, match="did you mean 'internvit-6b'"):
        vision_config("internvit-6B")
