"""The rules against all names and shapes of the full-size models, on the meta device."""

import json
from pathlib import Path

import pytest
import torch
from transformers import InternVLForConditionalGeneration, InternVLVisionModel, LlamaForCausalLM

from models.convert.configs import Fields, read_chat, read_language, read_vision
from models.convert.opengvlab_json import chat_json as written_chat_json
from models.convert.opengvlab_json import language_json, vision_json
from models.convert.rules import disk_name, steps_between
from models.presets import text_config, vision_config, vlm_preset
from tests.helpers.opengvlab import InternLM2, InternVisionModel, InternVLChat
from tests.helpers.opengvlab_configs import LANGUAGE_2B, VISION_6B, VISION_300M, chat_json

FILE = Path("config.json")


def shapes(model) -> dict[str, tuple[int, ...]]:
    whole = isinstance(model, InternVLForConditionalGeneration)
    state = model.state_dict().items()
    return {disk_name(name) if whole else name: tuple(tensor.shape) for name, tensor in state}


def check(theirs, stock, read, written: dict) -> None:
    """The steps, for the configuration read and for the stock one, cover both models' tensors in both directions."""
    for config in (read, stock.config):
        there, back = steps_between(config), steps_between(config, to="opengvlab")
        for steps, source, target in ((there, theirs, stock), (back, stock, theirs)):
            assert {name: shape for step in steps for name, shape in step.sources.items()} == shapes(source)
            assert {name: shape for step in steps for name, shape in step.targets.items()} == shapes(target)
    assert json.loads(json.dumps(written)) == written


@pytest.mark.parametrize(
    ("config", "preset", "parameters"),
    [(VISION_6B, "internvit-6b", 5_536_496_000), (VISION_300M, "internvit-300m", 304_012_288)],
)
def test_all_names_and_shapes_of_the_towers(config, preset, parameters):
    with torch.device("meta"):
        theirs, stock = InternVisionModel(config), InternVLVisionModel(vision_config(preset))
    assert sum(tensor.numel() for tensor in theirs.parameters()) == parameters
    check(theirs, stock, read_vision(Fields(config.json()), FILE), vision_json(stock.config, FILE))


def test_all_names_and_shapes_of_the_language_model():
    with torch.device("meta"):
        theirs, stock = InternLM2(LANGUAGE_2B), LlamaForCausalLM(text_config("internlm2-1.8b"))
    assert sum(tensor.numel() for tensor in theirs.parameters()) == 1_889_146_880
    read = read_language(Fields(LANGUAGE_2B.json()), FILE)
    assert read.rope_parameters["factor"] == 2.0
    assert read.rope_parameters["rope_type"] == "dynamic"
    check(theirs, stock, read, language_json(stock.config, FILE, tied=False))


def test_all_names_and_shapes_of_mini_internvl_2b():
    with torch.device("meta"):
        theirs = InternVLChat(VISION_300M, LANGUAGE_2B)
        stock = InternVLForConditionalGeneration(vlm_preset("drivlm-2b"))
    assert sum(tensor.numel() for tensor in theirs.parameters()) == 2_205_754_368
    read = read_chat(Fields(chat_json(VISION_300M, LANGUAGE_2B)), FILE, 92546)
    assert read.image_seq_length == 256
    check(theirs, stock, read, written_chat_json(stock.config, FILE))


def test_a_configuration_read_is_the_presets():
    for read, preset in (
        (read_vision(Fields(VISION_6B.json()), FILE), vision_config("internvit-6b")),
        (read_vision(Fields(VISION_300M.json() | {"drop_path_rate": 0.1}), FILE), vision_config("internvit-300m")),
        (read_language(Fields(LANGUAGE_2B.json() | {"bos_token_id": 1}), FILE), text_config("internlm2-1.8b")),
    ):
        assert read.to_dict() == preset.to_dict()
