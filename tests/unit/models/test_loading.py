"""Blanks: their keys against files, in both spellings; what does not fit; ties; parts of other models."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from models.blanks import joined_vlm, stored_language, stored_vision, stored_vlm
from models.loading import Blank, HeldWeights, ModelError, fill
from models.presets import text_config, vision_config
from models.saving import save_model
from models.vlm import build_language, build_vision, load_language, load_vlm
from tests.unit.models.tiny import IMAGE_TOKEN, tiny_vlm


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_model(tiny_vlm(), tmp_path / "vlm")
    return tmp_path / "vlm"


def _rewrite(directory: Path, change) -> dict[str, torch.Tensor]:
    state = change(load_file(directory / "model.safetensors"))
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    return state


def _set(directory: Path, **fields: object) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | fields))


def test_a_blank_holds_no_weights_and_keeps_its_parameters_when_filled(directory):
    blank = stored_vlm(directory)
    before = dict(blank.model.named_parameters())
    assert all(parameter.is_meta for parameter in before.values())
    blank.model.lm_head.requires_grad_(False)
    model = fill(blank, torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert parameter.dtype == torch.bfloat16
        assert parameter.requires_grad == (name != "lm_head.weight")
    assert model.config.dtype == model.config.text_config.dtype == torch.bfloat16
    assert model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("native", [True, False])
def test_both_spellings_of_keys_are_read(directory, native):
    names = dict(tiny_vlm().named_parameters())
    state = load_file(directory / "model.safetensors")
    assert "language_model.lm_head.weight" in state
    assert not state.keys() & names.keys()
    if native:
        _rewrite(directory, lambda _: {name: value.detach() for name, value in names.items()})
    for name, value in load_vlm(directory).named_parameters():
        assert torch.equal(value, names[name]), name


def test_everything_that_does_not_fit_is_listed_at_once(directory):
    def change(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del state["language_model.lm_head.weight"]
        state["surplus"] = torch.zeros(1)
        state["vision_tower.embeddings.cls_token"] = torch.zeros(7)
        state["model.language_model.norm.weight"] = torch.zeros(128)
        return state

    _rewrite(directory, change)
    with pytest.raises(ModelError) as caught:
        stored_vlm(directory)
    for part in (
        "missing: lm_head.weight",
        "unexpected: surplus",
        "vision_tower.embeddings.cls_token: got (7,), expected (1, 1, 96)",
        "given twice: ",
        str(directory),
    ):
        assert part in str(caught.value)


def test_a_tie_that_the_weights_contradict_is_refused(directory):
    _set(directory, tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"tie_word_embeddings.*got true, expected false.*lm_head"):
        stored_vlm(directory)


def test_a_language_model_that_is_rightly_tied_gives_both_ends(tmp_path):
    config = text_config("tiny-lm", vocab_size=64)
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tied = load_language(tmp_path)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    tower = build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0))
    blank = joined_vlm(
        Blank(tower, HeldWeights(tower)),
        stored_language(tmp_path),
        image_token_id=IMAGE_TOKEN,
        generator=torch.Generator().manual_seed(1),
    )
    vlm = fill(blank)
    assert vlm.lm_head.weight is not vlm.get_input_embeddings().weight
    assert torch.equal(vlm.lm_head.weight, tied.lm_head.weight)


def test_a_missing_head_names_the_field_that_may_be_wrong(tmp_path):
    language = build_language(text_config("tiny-lm", vocab_size=64), torch.Generator().manual_seed(0))
    save_model(language, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing: lm_head\.weight; .* tie_word_embeddings would have to be true"):
        stored_language(tmp_path)


def test_the_tower_of_a_whole_model_is_read_alone(directory):
    blank = stored_vision(directory)
    state = load_file(directory / "model.safetensors")
    assert torch.equal(blank.weights.read("embeddings.cls_token"), state["vision_tower.embeddings.cls_token"])
    assert blank.weights.files == (directory / "model.safetensors",)


def test_a_truncated_file_is_refused_by_name(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"cannot be loaded.*model\.safetensors"):
        stored_vlm(directory)


def test_a_configuration_that_makes_no_model_is_refused_by_name(directory):
    config = json.loads((directory / "config.json").read_text())
    _set(directory, text_config=config["text_config"] | {"num_hidden_layers": "many"})
    with pytest.raises(ModelError, match=r"config\.json"):
        stored_vlm(directory)
