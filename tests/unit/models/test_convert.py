"""Converted models against an independent implementation of OpenGVLab's layout, and the way back bit by bit."""

import json
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, InternVLForConditionalGeneration

from models.convert import convert
from models.saving import save_model
from models.sharded_safetensors import ShardedReader
from models.vlm import load_language, load_vision, load_vlm
from tests.helpers.opengvlab import InternLM2, InternVisionModel, InternVLChat, randomised, write_checkpoint
from tests.helpers.opengvlab_configs import TINY_6B, TINY_300M, TINY_LANGUAGE, Language, Vision, chat_json

IMAGE_TOKEN = 46
LANGUAGES = {
    "dynamic": TINY_LANGUAGE,
    "null": replace(TINY_LANGUAGE, rope_scaling=None),
    "linear": replace(TINY_LANGUAGE, rope_scaling={"type": "linear", "factor": 4.0}),
    "tied, with biases": replace(TINY_LANGUAGE, tie_word_embeddings=True, bias=True),
    "one head a group": replace(TINY_LANGUAGE, num_key_value_heads=6, num_hidden_layers=1),
}


def vision_source(config: Vision, directory, **options) -> InternVisionModel:
    model = randomised(InternVisionModel(config))
    write_checkpoint(model, config.json(), directory, **options)
    return model


def language_source(config: Language, directory, **options) -> InternLM2:
    model = randomised(InternLM2(config))
    write_checkpoint(model, config.json(), directory, **options)
    return model


def chat_source(vision: Vision, language: Language, directory, **options) -> InternVLChat:
    model = randomised(InternVLChat(vision, language))
    write_checkpoint(model, chat_json(vision, language), directory, **options)
    (directory / "added_tokens.json").write_text(json.dumps({"<IMG_CONTEXT>": IMAGE_TOKEN, "</box>": 49}))
    return model


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def worst(ours, theirs) -> float:
    """Largest difference of two lists of states, in relation to the largest value."""
    assert len(ours) == len(theirs)
    scale = max(1.0, max(float(state.abs().max()) for state in theirs))
    return max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True)) / scale


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY_6B, TINY_300M, replace(TINY_6B, norm_type="layer_norm", qkv_bias=True)])
@pytest.mark.parametrize("side", [56, 84])
def test_a_converted_tower_has_the_same_hidden_states(tmp_path, config, side):
    reference = vision_source(config, tmp_path / "src")
    assert convert(tmp_path / "src", tmp_path / "dst") == []
    tower = load_vision(tmp_path / "dst")
    pixels = noise(2, 3, side, side)
    theirs = reference(pixels)
    assert theirs[-1].std() > 0.5
    assert worst(tower(pixels, output_hidden_states=True).hidden_states, theirs) < 1e-5
    assert type(AutoModel.from_pretrained(tmp_path / "dst")) is type(tower)


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY_6B, TINY_300M])
def test_each_projection_of_a_converted_tower_is_the_same(tmp_path, config):
    # A key bias, and q and k norms exchanged, do not show in the outputs.
    reference = vision_source(config, tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "dst")
    tower = load_vision(tmp_path / "dst")
    x = noise(2, 17, config.hidden_size)
    for theirs, ours in zip(reference.encoder.layers, tower.encoder.layer, strict=True):
        attention = ours.attention
        q, k, v = attention.q_norm(attention.q_proj(x)), attention.k_norm(attention.k_proj(x)), attention.v_proj(x)
        assert max(worst([a], [b]) for a, b in zip((q, k, v), theirs.attn.projections(x), strict=True)) < 1e-6
        assert not torch.allclose(q, k, atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("length", [16, 41])
def test_a_converted_language_model_has_the_same_logits_and_hidden_states(tmp_path, name, length):
    config = LANGUAGES[name]
    reference = language_source(config, tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "dst")
    model = load_language(tmp_path / "dst")
    ids = torch.randint(0, config.vocab_size, (2, length), generator=torch.Generator().manual_seed(2))
    logits, states = reference(reference.model.tok_embeddings(ids))
    output = model(ids, output_hidden_states=True, use_cache=False)
    assert logits.std() > 0.5
    # Rotation runs in float64 there, and length 41 is past the 16 positions.
    assert worst([output.logits, *output.hidden_states], [logits, *states]) < 1e-5
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "dst")) is type(model)
    if name == "dynamic" and length > config.max_position_embeddings:
        plain = randomised(InternLM2(LANGUAGES["null"]))
        assert worst([logits], [plain(plain.model.tok_embeddings(ids))[0]]) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("name", LANGUAGES)
def test_each_projection_of_a_converted_language_model_is_the_same(tmp_path, name):
    config = LANGUAGES[name]
    reference = language_source(config, tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "dst")
    x = noise(2, 5, config.hidden_size)
    for theirs, ours in zip(reference.model.layers, load_language(tmp_path / "dst").model.layers, strict=True):
        attention, projected = ours.self_attn, theirs.attention.projections(x)
        for mine, part in zip((attention.q_proj, attention.k_proj, attention.v_proj), projected, strict=True):
            assert worst([mine(x)], [part.flatten(2)]) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("vision", "tied"), [(TINY_300M, False), (TINY_6B, True)])
def test_a_converted_whole_model_has_the_same_logits_and_hidden_states(tmp_path, vision, tied):
    language = replace(TINY_LANGUAGE, tie_word_embeddings=tied)
    reference = chat_source(vision, language, tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "dst")
    model = load_vlm(tmp_path / "dst")
    ids = torch.tensor([[1, 5, *[IMAGE_TOKEN] * 8, 7, 9, 11, 13, 15, 17, 19, 21, 23]])
    assert ids.shape[1] > language.max_position_embeddings
    pixels = noise(2, 3, 56, 56)
    logits, states = reference(ids, pixels, IMAGE_TOKEN)
    output = model(input_ids=ids, pixel_values=pixels, output_hidden_states=True, use_cache=False)
    assert worst([output.logits, *output.hidden_states], [logits, *states]) < 1e-5
    assert model.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) is tied
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "dst")
    assert type(loaded) is InternVLForConditionalGeneration
    assert model.config.image_seq_length == 4


def same_weights(one, other) -> bool:
    first, second = ShardedReader(one), ShardedReader(other)
    assert len(first.names) > 5
    return set(first.names) == set(second.names) and all(
        first.dtype(name) == second.dtype(name)
        and torch.equal(first.tensor(name).view(torch.int16), second.tensor(name).view(torch.int16))
        for name in first.names
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["6b", "300m", "language", "biased", "chat", "tied chat"])
def test_there_and_back_gives_the_same_bits(tmp_path, kind, dtype):
    source, middle, back, again = (tmp_path / name for name in ("src", "middle", "back", "again"))
    if kind in ("6b", "300m"):
        vision_source(TINY_6B if kind == "6b" else TINY_300M, source, dtype=dtype)
    elif kind.endswith("chat"):
        chat_source(TINY_300M, replace(TINY_LANGUAGE, tie_word_embeddings=kind == "tied chat"), source, dtype=dtype)
    else:
        language_source(LANGUAGES["tied, with biases" if kind == "biased" else "null"], source, dtype=dtype)
    convert(source, middle)
    convert(middle, back, to="opengvlab", max_shard_bytes=9000)
    convert(back, again)
    assert same_weights(source, back)
    assert same_weights(middle, again)
    assert len(list(back.glob("*.safetensors"))) > 1
    assert json.loads((middle / "config.json").read_text()) == json.loads((again / "config.json").read_text())

    written = json.loads((back / "config.json").read_text())
    assert written["torch_dtype"] == str(dtype).removeprefix("torch.")
    differing = differences(json.loads((source / "config.json").read_text()), written)
    assert differing == []
    if kind.endswith("chat"):
        assert (back / "added_tokens.json").read_text() == (source / "added_tokens.json").read_text()


def differences(one: dict, other: dict) -> list[str]:
    """Fields of `one` that `other` has not."""
    found = []
    for name, value in one.items():
        if isinstance(value, dict) and isinstance(other.get(name), dict):
            found += differences(value, other[name])
        elif name not in other or other[name] != value:
            found.append(name)
    return found


def test_a_field_of_their_class_that_is_absent_has_its_default(tmp_path):
    # Their class defaults to RMSNorm, q and k norms and attention biases; those of transformers do not.
    source = tmp_path / "src"
    reference = vision_source(TINY_6B, source)
    config = json.loads((source / "config.json").read_text())
    for name in ("norm_type", "qk_normalization", "qkv_bias", "patch_size"):
        del config[name]
    (source / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "dst")
    assert load_vision(tmp_path / "dst").config.norm_type == "rms_norm"
    assert len(ShardedReader(tmp_path / "dst").names) == len(reference.state_dict()) + 2 * TINY_6B.num_hidden_layers

    source = tmp_path / "language"
    language_source(LANGUAGES["tied, with biases"], source)
    config = json.loads((source / "config.json").read_text())
    del config["bias"]
    (source / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "llama")
    assert load_language(tmp_path / "llama").config.attention_bias


@torch.no_grad()
def test_what_save_model_writes_and_what_a_state_dict_is_called_both_go_to_opengvlab(tmp_path):
    reference = chat_source(TINY_300M, TINY_LANGUAGE, tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "stock")
    model = load_vlm(tmp_path / "stock")
    save_model(model, tmp_path / "saved")
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(ShardedReader(tmp_path / "stock").names)
    raw = tmp_path / "raw"
    write_checkpoint(model, json.loads((tmp_path / "saved" / "config.json").read_text()), raw)
    assert "lm_head.weight" in ShardedReader(raw).names
    for name in ("saved", "raw"):
        convert(tmp_path / name, tmp_path / f"{name}-back", to="opengvlab")
        back = ShardedReader(tmp_path / f"{name}-back")
        state = reference.state_dict()
        assert set(back.names) == set(state)
        assert all(torch.equal(back.tensor(key), tensor) for key, tensor in state.items())


def test_a_file_is_a_source_and_shards_are(tmp_path):
    vision_source(TINY_300M, tmp_path / "src")
    convert(tmp_path / "src" / "model.safetensors", tmp_path / "one")
    convert(tmp_path / "src", tmp_path / "shards", max_shard_bytes=20_000)
    assert same_weights(tmp_path / "one", tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert load_vision(tmp_path / "shards").config.hidden_size == TINY_300M.hidden_size


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_weights_are_read_when_allowed(tmp_path, legacy):
    model = vision_source(TINY_300M, tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "expected")
    (tmp_path / "src" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "src" / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    convert(tmp_path / "src", tmp_path / "dst", allow_pickle=True)
    assert same_weights(tmp_path / "dst", tmp_path / "expected")


def test_pickled_shards_are_read_when_allowed(tmp_path):
    state = vision_source(TINY_300M, tmp_path / "src").state_dict()
    convert(tmp_path / "src", tmp_path / "expected")
    (tmp_path / "src" / "model.safetensors").unlink()
    halves = {"a.bin": list(state)[::2], "b.bin": list(state)[1::2]}
    for file, names in halves.items():
        torch.save({name: state[name] for name in names}, tmp_path / "src" / file)
    weight_map = {name: file for file, names in halves.items() for name in names}
    (tmp_path / "src" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    convert(tmp_path / "src", tmp_path / "dst", allow_pickle=True)
    assert same_weights(tmp_path / "dst", tmp_path / "expected")


def test_only_the_tensors_of_one_step_are_held(tmp_path, monkeypatch):
    vision_source(replace(TINY_300M, num_hidden_layers=6), tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "middle")
    alive: list[weakref.ref] = []
    counts = []
    read = ShardedReader.tensor

    def counted(self, name):
        tensor = read(self, name)
        alive[:] = [held for held in alive if held() is not None] + [weakref.ref(tensor)]
        counts.append(len(alive))
        return tensor

    monkeypatch.setattr(ShardedReader, "tensor", counted)
    convert(tmp_path / "src", tmp_path / "dst")
    assert len(counts) > 60
    assert max(counts) <= 2  # the one before is let go when its successor is there
    counts.clear()
    convert(tmp_path / "middle", tmp_path / "back", to="opengvlab")
    assert 3 <= max(counts) <= 4  # q, k and v are joined


def test_tokenizer_files_are_copied_and_code_is_not(tmp_path):
    chat_source(TINY_300M, TINY_LANGUAGE, tmp_path / "src")
    (tmp_path / "src" / "modeling_internvl_chat.py").write_text("raise SystemExit(3)")
    (tmp_path / "src" / "generation_config.json").write_text('{"eos_token_id": [2, 42]}')
    remarks = convert(tmp_path / "src", tmp_path / "dst")
    assert sorted(path.name for path in (tmp_path / "dst").iterdir()) == [
        "added_tokens.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert remarks == ["copied as they are: added_tokens.json, generation_config.json"]
    assert load_vlm(tmp_path / "dst").generation_config.eos_token_id == [2, 42]
