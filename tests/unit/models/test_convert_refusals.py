"""What the converter refuses: each problem by name, on the command line with status 2, and with nothing written."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from models.convert import ConvertError, convert
from models.convert.cli import main
from models.presets import vlm_preset
from models.saving import save_model
from models.sharded_safetensors import INDEX_FILE, ShardedWriter
from models.vlm import build_vlm
from tests.helpers.checkpoints import copied, refusal, write_checkpoints


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def source(checkpoints, tmp_path):
    """Makes a copy of one of the checkpoints, to be spoilt."""
    return lambda kind, **fields: copied(checkpoints / kind, tmp_path / "src", **fields)


def test_a_truncated_file_is_refused_by_name(source, capsys):
    directory = source("vision")
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "model.safetensors: got" in refusal(directory, capsys)


def test_a_missing_shard_is_refused_by_name(checkpoints, tmp_path, capsys):
    convert(checkpoints / "chat", tmp_path / "src", max_shard_bytes=40_000)
    assert (tmp_path / "src" / INDEX_FILE).is_file()
    (tmp_path / "src" / sorted(path.name for path in (tmp_path / "src").glob("*.safetensors"))[1]).unlink()
    assert "shard 'model-00002-of-" in refusal(tmp_path / "src", capsys, "--to", "opengvlab")


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("vision", {"num_hidden_layers": 1}, "unknown to the configuration: encoder.layers.1.attn.qkv.weight"),
        ("vision", {"num_hidden_layers": 3}, "asks for: encoder.layers.2.ls1"),
        ("vision", {"intermediate_size": 60}, "encoder.layers.0.mlp.fc1.weight: got [64, 32], expected [60, 32]"),
        ("vision", {"image_size": 70}, "embeddings.position_embedding: got [1, 17, 32], expected [1, 26, 32]"),
        ("vision", {"qkv_bias": False}, "unknown to the configuration: encoder.layers.0.attn.qkv.bias"),
        ("vision", {"qk_normalization": True}, "asks for: encoder.layers.0.attn.q_norm.weight"),
        ("vision", {"norm_type": "rms_norm"}, "unknown to the configuration: encoder.layers.0.norm1.bias"),
        ("language", {"vocab_size": 60}, "model.tok_embeddings.weight: got [50, 48], expected [60, 48]"),
        ("language", {"num_key_value_heads": 3}, "attention.wqkv.weight: got [80, 48], expected [96, 48]"),
        ("language", {"bias": True}, "asks for: model.layers.0.attention.wo.bias"),
        ("chat", {"vision_config__num_hidden_layers": 1}, "vision_model.encoder.layers.1.norm1.weight"),
        ("stock-chat", {"text_config__num_hidden_layers": 2}, "language_model.model.layers.2.mlp.up_proj.weight"),
    ],
)
def test_weights_and_a_configuration_that_disagree_are_refused_with_all_tensors(source, capsys, kind, fields, said):
    to = ("--to", "opengvlab") if kind.startswith("stock") else ()
    error = refusal(source(kind, **fields), capsys, *to)
    assert said in error
    assert "the weights and config.json disagree" in error


def test_everything_that_disagrees_is_listed_at_once(source):
    directory = source("vision")
    state = load_file(directory / "model.safetensors")
    del state["encoder.layers.0.ls1"]
    state["head.weight"] = torch.ones(2)
    state["encoder.layers.1.ls2"] = torch.ones(31)
    state["encoder.layers.1.ls1"] = torch.ones(32, dtype=torch.int8)
    save_file(state, directory / "model.safetensors")
    with pytest.raises(ConvertError) as caught:
        convert(directory, directory.parent / "dst")
    assert str(caught.value).splitlines()[0].endswith("the weights and config.json disagree in 4 tensors")
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "missing, which the configuration asks for: encoder.layers.0.ls1",
        "unknown to the configuration: head.weight",
        "wrongly shaped: encoder.layers.1.ls2: got [31], expected [32]",
        "not of floating point: encoder.layers.1.ls1: torch.int8",
    ]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("language", {"tie_word_embeddings": True}),
        ("tied", {"tie_word_embeddings": False}),
        ("chat", {"llm_config__tie_word_embeddings": True}),
        ("stock-chat", {"tie_word_embeddings": True}),
        ("stock-language", {"tie_word_embeddings": True}),
    ],
)
def test_tied_embeddings_that_are_mis_set_are_named(source, capsys, kind, fields):
    to = ("--to", "opengvlab") if kind.startswith("stock") else ()
    error = refusal(source(kind, **fields), capsys, *to)
    assert "tie_word_embeddings is false: is it mis-set?" in error
    assert "disagree in 1 tensors" in error


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "got 'qwen2' and ['Qwen2ForCausalLM']"),
        ({"model_type": ["x"]}, "got ['x']"),
        ({"architectures": ["InternVisionModelForSomething"]}, "['InternVisionModelForSomething'], expected one of"),
        ({"architectures": 3}, "got 'intern_vit_6b' and 3, expected one of"),
        ({"architectures": [["x"]]}, "and [['x']], expected one of"),
    ],
)
def test_another_architecture_is_refused(source, capsys, fields, said):
    assert said in refusal(source("vision", **fields), capsys)


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("chat", {"llm_config__architectures": ["Qwen2ForCausalLM"]}, "'llm_config.architectures': got ['Qwen2"),
        ("chat", {"ps_version": "v1"}, "field 'ps_version': got 'v1', expected v2"),
        ("chat", {"use_llm_lora": 16}, "field 'use_llm_lora': got 16, expected 0: merge"),
        ("chat", {"force_image_size": 448}, "field 'force_image_size': got 448, expected the tower's 56"),
        ("chat", {"vision_config": 3}, "field 'vision_config': got 3, expected an object"),
        ("vision", {"layer_norm_eps": 1e-5, "qk_normalization": True}, "field 'layer_norm_eps': got 1e-05"),
        ("vision", {"hidden_size": "32"}, "field 'hidden_size': got '32', expected int"),
        ("vision", {"qkv_bias": 1}, "field 'qkv_bias': got 1, expected bool"),
        ("vision", {"hidden_size": 32, "num_attention_heads": 5}, "field 'num_attention_heads': got 5"),
        ("language", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'rope_scaling.type': got 'yarn'"),
        ("language", {"rope_pos_id_version": "v2pe"}, "field 'rope_pos_id_version': got 'v2pe'"),
        ("language", {"num_key_value_heads": 4}, "field 'num_key_value_heads': got 4"),
        ("language", {"rope_scaling": {"type": "linear", "factor": 0.0}}, "'rope_scaling.factor': got 0.0"),
        ("language", {"vocab_size": -5}, "field 'vocab_size': got -5, expected at least 1"),
        ("language", {"hidden_size": -48}, "field 'hidden_size': got -48"),
        ("vision", {"intermediate_size": -1}, "field 'intermediate_size': got -1"),
        ("vision", {"num_hidden_layers": 0}, "field 'num_hidden_layers': got 0"),
        ("chat", {"downsample_ratio": 1e-320}, "field 'downsample_ratio': got 1e-320"),
    ],
)
def test_a_configuration_that_transformers_cannot_express_is_refused_by_field(source, capsys, kind, fields, said):
    assert said in refusal(source(kind, **fields), capsys)


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (
            "stock-vision",
            {"use_mask_token": True, "image_size": [56, 70]},
            "'use_mask_token': got True, expected false",
        ),
        (
            "stock-language",
            {"mlp_bias": True, "head_dim": 16},
            "field 'head_dim': got 16, expected hidden_size / heads",
        ),
        ("stock-language", {"hidden_size": "a"}, "got values that LlamaConfig refuses"),
        ("stock-chat", {"vision_feature_select_strategy": "full"}, "'vision_feature_select_strategy': got full"),
        ("stock-chat", {"architectures": ["LinearProjectorVLM"]}, "OpenGVLab's projector has two linear layers"),
        ("stock-chat", {"image_token_id": 45}, "field 'image_token_id': got 45, expected 46, the tokenizer's id"),
        ("stock-chat", {"text_config__model_type": "mistral"}, "got ['internvl_vision', 'mistral']"),
        ("stock-chat", {"downsample_ratio": 0.0}, "field 'downsample_ratio': got 0.0"),
        ("stock-chat", {"opengvlab": "x"}, "field 'opengvlab': got x, expected an object"),
        ("stock-chat", {"text_config__num_hidden_layers": -1}, "field 'text_config.num_hidden_layers': got -1"),
        ("stock-language", {"num_key_value_heads": 0}, "field 'num_key_value_heads': got 0, expected at least 1"),
        ("stock-language", {"num_attention_heads": 0}, "got values that LlamaConfig refuses"),
        ("stock-vision", {"patch_size": [0, 0]}, "field 'patch_size': got [0, 0], expected at least 1"),
    ],
)
def test_a_configuration_that_opengvlab_cannot_express_is_refused_by_field(source, capsys, kind, fields, said):
    assert said in refusal(source(kind, **fields), capsys, "--to", "opengvlab")


def test_a_checkpoint_that_is_in_the_wanted_layout_is_refused(source, capsys, checkpoints):
    error = refusal(source("vision"), capsys, "--to", "opengvlab")
    assert "a checkpoint in opengvlab layout" in error
    with pytest.raises(ConvertError, match="in transformers layout.*pass --to opengvlab"):
        convert(checkpoints / "stock-chat", checkpoints / "dst")


def test_a_target_in_use_is_refused(checkpoints, tmp_path, capsys):
    (tmp_path / "dst").mkdir()
    convert(checkpoints / "vision", tmp_path / "dst")
    assert main([str(checkpoints / "vision"), str(tmp_path / "dst")]) == 2
    assert "got a path in use, expected none or an empty directory" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert main([str(checkpoints / "vision"), str(tmp_path / "file")]) == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_stays_and_the_directory_behind_it_is_made(checkpoints, tmp_path):
    (tmp_path / "empty").mkdir()
    for target in ("empty", "new"):
        link = tmp_path / f"to-{target}"
        link.symlink_to(tmp_path / target)
        convert(checkpoints / "vision", link)
        assert link.is_symlink()
        assert (tmp_path / target / "config.json").is_file()


def test_the_working_directory_is_not_replaced(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in (".", ""):
        assert main([str(checkpoints / "vision"), name]) == 2
        assert "got the working directory, expected a new one" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"hidden_size": ' + "9" * 5000 + "}"])
def test_json_that_python_cannot_read_is_named(source, capsys, text):
    directory = source("vision")
    (directory / "config.json").write_text(text)
    assert "config.json: got no JSON" in refusal(directory, capsys)


def test_a_source_that_is_missing_or_bare_is_refused(source, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "dst")]) == 2
    assert "nowhere: no such file or directory" in capsys.readouterr().err
    directory = source("vision")
    (directory / "model.safetensors").unlink()
    assert "got no safetensors" in refusal(directory, capsys)
    (directory / "config.json").write_text("[]")
    assert "config.json: got JSON that is no object" in refusal(directory, capsys)
    (directory / "config.json").unlink()
    assert "config.json: no such file, expected the model's configuration" in refusal(directory, capsys)


class RunsCode:
    """Unpickled by a loader that trusts its file, it makes a directory."""

    def __init__(self, directory) -> None:
        self.directory = directory

    def __reduce__(self):
        return os.mkdir, (str(self.directory),)


def test_pickled_weights_are_refused_unless_allowed_and_only_tensors_are_unpickled(source, capsys):
    directory = source("vision")
    (directory / "model.safetensors").unlink()
    file = directory / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, file)
    assert "pytorch_model.bin: got pickled weights, expected safetensors" in refusal(directory, capsys)
    assert "disagree in" in refusal(directory, capsys, "--allow-pickle")
    torch.save({"a": LlamaConfig()}, file)
    assert "torch.load with weights_only refuses it" in refusal(directory, capsys, "--allow-pickle")
    torch.save([torch.ones(2)], file)
    assert "got something else than plain tensors by name" in refusal(directory, capsys, "--allow-pickle")
    torch.save({1: torch.ones(2)}, file)
    assert "got something else than plain tensors by name" in refusal(directory, capsys, "--allow-pickle")
    torch.save({"a": torch.ones(2).to_sparse()}, file)
    assert "got something else than plain tensors by name" in refusal(directory, capsys, "--allow-pickle")
    torch.save({"a": torch.ones(2, device="meta")}, file)
    assert "got something else than plain tensors by name" in refusal(directory, capsys, "--allow-pickle")
    torch.save({"a": RunsCode(directory.parent / "ran")}, file)
    assert "torch.load with weights_only refuses it" in refusal(directory, capsys, "--allow-pickle")
    assert not (directory.parent / "ran").exists()
    file.write_bytes(b"\x80\x02junk")
    assert "torch.load with weights_only refuses it" in refusal(directory, capsys, "--allow-pickle")
    file.unlink()
    change = {"weight_map": {"a": "../x.bin", "b": "absent.bin"}}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(change))
    assert "['../x.bin', 'absent.bin']" in refusal(directory, capsys, "--allow-pickle")
    (directory / "pytorch_model.bin.index.json").write_text('{"weight_map": []}')
    assert "field 'weight_map': got no files" in refusal(directory, capsys, "--allow-pickle")


def test_a_failure_while_writing_leaves_nothing(checkpoints, tmp_path, monkeypatch, capsys):
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.convert.converter.shutil.copyfile", full_disk)
    assert main([str(checkpoints / "chat"), str(tmp_path / "dst")]) == 1
    assert "failed: [Errno 28] No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_signal_leaves_nothing(checkpoints, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ShardedWriter, "close", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    assert main([str(checkpoints / "chat"), str(tmp_path / "dst")]) == 1
    assert "stopped; nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_says_what_it_wrote(checkpoints, tmp_path, capsys):
    assert main([str(checkpoints / "chat"), str(tmp_path / "a" / "dst")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "remark: copied as they are: added_tokens.json",
        f"{tmp_path / 'a' / 'dst'}: written in transformers layout",
    ]
    with pytest.raises(SystemExit) as status:
        main([str(checkpoints / "chat"), str(tmp_path / "b"), "--to", "elsewhere"])
    assert status.value.code == 2


def test_a_linear_projector_of_this_project_is_refused(tmp_path):
    config = vlm_preset("tiny-vlm", vocab_size=64, image_token_id=60)
    save_model(build_vlm(config, torch.Generator().manual_seed(0), projector="linear"), tmp_path / "src")
    with pytest.raises(ConvertError, match="got LinearProjectorVLM"):
        convert(tmp_path / "src", tmp_path / "dst", to="opengvlab")
