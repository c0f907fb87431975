"""Models built from configurations and seeds, joined, and loaded from what was saved."""

import json

import pytest
import torch

from models.loading import ModelError
from models.presets import text_config, vision_config
from models.projector import LinearProjectorVLM
from models.saving import save_model
from models.vlm import build_language, build_vision, join_vlm, load_language, load_vision, load_vlm
from tests.unit.models.tiny import IMAGE_TOKEN, tiny_vlm


def test_the_seed_alone_decides_the_weights_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    one, same, other = tiny_vlm(1), tiny_vlm(1), tiny_vlm(2)
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name]), name
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_fresh_towers_tell_positions_apart():
    for name in ("tiny-teacher", "tiny-student"):
        tower = build_vision(vision_config(name), torch.Generator().manual_seed(0))
        positions = tower.embeddings.position_embeddings
        assert 0.019 < float(positions.detach().std()) < 0.021
        grey = tower(torch.zeros(1, 3, 112, 112)).last_hidden_state[0]
        assert (grey[1:] - grey[1]).abs().amax(-1)[1:].min() > 1e-3


def test_joined_parts_keep_their_weights(tmp_path):
    generator = torch.Generator().manual_seed(5)
    vision = build_vision(vision_config("tiny-student"), generator)
    language = build_language(text_config("tiny-lm", vocab_size=64), generator)
    save_model(vision, tmp_path / "vision")
    save_model(language, tmp_path / "language")
    vlm = join_vlm(
        load_vision(tmp_path / "vision"),
        load_language(tmp_path / "language"),
        image_token_id=IMAGE_TOKEN,
        generator=generator,
    )
    save_model(vlm, tmp_path / "vlm")
    loaded = load_vlm(tmp_path / "vlm")
    for name, weight in vision.state_dict().items():
        assert torch.equal(loaded.model.vision_tower.state_dict()[name], weight), name
    for name, weight in language.model.state_dict().items():
        assert torch.equal(loaded.model.language_model.state_dict()[name], weight), name
    assert torch.equal(loaded.lm_head.weight, language.lm_head.weight)
    assert not torch.equal(loaded.lm_head.weight, loaded.get_input_embeddings().weight)


def test_the_linear_projector_is_loaded_again_as_such(tmp_path):
    vlm = tiny_vlm(projector="linear")
    save_model(vlm, tmp_path)
    loaded = load_vlm(tmp_path)
    assert isinstance(loaded, LinearProjectorVLM)
    weights = loaded.state_dict()
    assert weights.keys() == vlm.state_dict().keys()
    for name, weight in vlm.state_dict().items():
        assert torch.equal(weights[name], weight), name


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json.*no such file"):
        load_vlm(tmp_path / "nothing")
    vision = build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0))
    save_model(vision, tmp_path / "vision")
    with pytest.raises(ModelError, match="InternVLVisionModel.*expected InternVLForConditionalGeneration"):
        load_vlm(tmp_path / "vision")
    (tmp_path / "vision" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_vision(tmp_path / "vision")
    (tmp_path / "vision" / "config.json").write_text("[1")
    with pytest.raises(ModelError, match="no JSON object"):
        load_vision(tmp_path / "vision")


def test_weights_of_another_size_are_refused(tmp_path):
    save_model(build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for field, value in (("num_hidden_layers", 6), ("intermediate_size", 200)):
        (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
        with pytest.raises(ModelError, match="do not fit|cannot be loaded"):
            load_vision(tmp_path)
