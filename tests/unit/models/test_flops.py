"""Counted FLOPs against those that torch counts while a model runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.flops import forward_flops, language_flops, vision_flops
from models.presets import text_config, vision_config, vlm_config
from models.vlm import build_language, build_vision, build_vlm


def counted(run):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["tiny-teacher", "tiny-student"])
def test_a_towers_flops_are_those_that_torch_counts(name):
    tower = build_vision(vision_config(name), torch.Generator().manual_seed(0)).eval()
    tower.set_attn_implementation("eager")
    tiles = torch.zeros(3, 3, 112, 112)
    assert 3 * vision_flops(tower.config) == pytest.approx(counted(lambda: tower(pixel_values=tiles)), rel=0.01)


def test_a_language_models_flops_are_those_that_torch_counts():
    model = build_language(text_config("tiny-lm", vocab_size=300), torch.Generator().manual_seed(0)).eval()
    model.set_attn_implementation("eager")
    ids = torch.zeros(1, 57, dtype=torch.int64)
    token, pair, label = language_flops(model.config)
    expected = 57 * (token + label) + 57**2 * pair  # eager attention computes the masked half as well
    assert expected == pytest.approx(counted(lambda: model(ids, use_cache=False)), rel=0.01)


def test_a_whole_models_flops_are_those_that_torch_counts():
    text = text_config("tiny-lm", vocab_size=300)
    config = vlm_config(vision_config("tiny-student"), text, 5)
    model = build_vlm(config, torch.Generator().manual_seed(0)).eval()
    model.set_attn_implementation("eager")
    flops = forward_flops(model.config)
    ids = torch.tensor([[7] * 9 + [5] * (2 * flops.tokens_per_tile)])
    tokens = ids.shape[1]
    expected = (
        2 * flops.tile
        + 2 * flops.tokens_per_tile * flops.image_token
        + tokens * (flops.token + flops.label)
        + tokens**2 * flops.pair
    )
    run = counted(lambda: model(input_ids=ids, pixel_values=torch.zeros(2, 3, 112, 112), use_cache=False))
    assert expected == pytest.approx(run, rel=0.01)


def test_full_size_flops_are_those_of_the_published_sizes():
    assert vision_flops(vision_config("internvit-6b")) == pytest.approx(11.9e12, rel=0.01)
    assert vision_flops(vision_config("internvit-300m")) == pytest.approx(0.723e12, rel=0.01)
