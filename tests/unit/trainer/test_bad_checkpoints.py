"""Checkpoints that are not what they should be, as the two command lines that take them meet them: named, status 2."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from data_shards.chat import IMAGE_TOKEN
from data_shards.tokenizer import load_tokenizer
from models.presets import text_config, vlm_preset
from models.saving import save_model
from models.vlm import build_language, build_vlm
from tests.helpers.paths import ROOT
from tests.helpers.stages import make_world, write_recipe
from trainer import export, run
from trainer.stages.sources import StageError, tokenizer_from

CONFIG = str(ROOT / "ds_configs" / "cpu_zero3.json")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_world(tmp_path_factory.mktemp("world"), frames=3)
    _save_vlm(root / "whole", load_tokenizer(root / "tokenizer"))
    return root


def _save_vlm(directory: Path, tokenizer: PreTrainedTokenizerFast, *, rows: int = 0, image_token: int = 0) -> None:
    """A whole model; its embedding has `rows` more rows than the tokenizer tokens."""
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) + image_token
    config = vlm_preset("tiny-vlm", vocab_size=len(tokenizer) + rows, image_token_id=image_token_id)
    save_model(build_vlm(config, torch.Generator().manual_seed(0)), directory)
    tokenizer.save_pretrained(directory)


def _set(directory: Path, **fields: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def _cut(directory: Path) -> None:
    content = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(content[:-1000])


def _drop(directory: Path, name: str) -> None:
    state = load_file(directory / WEIGHTS)
    del state[name]
    save_file(state, directory / WEIGHTS, metadata={"format": "pt"})


def _more_layers(directory: Path) -> None:
    text = json.loads((directory / "config.json").read_text())["text_config"]
    _set(directory, text_config=text | {"num_hidden_layers": 5})


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_cut, r"model\.safetensors: got \d+ bytes, expected \d+; the file is truncated"),
    "disagreeing": (_more_layers, r"missing: model\.language_model\.layers\.4\.input_layernorm\.weight, .*; is the"),
    "tied": (lambda d: _set(d, tie_word_embeddings=True), "field 'tie_word_embeddings': got true, expected false"),
    "headless": (lambda d: _drop(d, "language_model.lm_head.weight"), "tie_word_embeddings would have to be true"),
    "foreign": (lambda d: _set(d, architectures=["Qwen2ForCausalLM"]), r"'architectures': got \['Qwen2ForCausalLM'\]"),
    "small-tokenizer": (
        lambda d: _save_vlm(d, load_tokenizer(d), rows=7),
        r"got a? ?(tokenizer of )?517 tokens .*expected 524, as many as the",
    ),
    "large-tokenizer": (
        lambda d: _save_vlm(d, load_tokenizer(d), rows=-2, image_token=-9),
        r"got a? ?(tokenizer of )?517 tokens .*expected 515, as many as the",
    ),
    "other-image-token": (
        lambda d: _save_vlm(d, load_tokenizer(d), image_token=-1),
        f"with {IMAGE_TOKEN} = 516, expected 517, .* with {IMAGE_TOKEN} = 515",
    ),
}


@pytest.fixture(params=SPOILT)
def spoilt(request: pytest.FixtureRequest, world: Path, tmp_path: Path) -> tuple[Path, str]:
    """A model directory, and what is to be said of it."""
    spoil, message = SPOILT[request.param]
    shutil.copytree(world / "whole", tmp_path / "model")
    spoil(tmp_path / "model")
    return tmp_path / "model", message


def test_training_refuses_it_before_anything_is_written(spoilt, world, tmp_path, capsys):
    directory, message = spoilt
    recipe = write_recipe(world, "finetune", tmp_path / "run", model={"vlm": str(directory)})
    assert run.main(["--ds_config", CONFIG, "--recipe", str(recipe), "--dry-run"]) == 2
    assert re.search(message, capsys.readouterr().err, re.DOTALL)
    assert not (tmp_path / "run").exists()


def test_the_export_refuses_it_and_writes_nothing(spoilt, world, tmp_path, capsys):
    directory, message = spoilt
    recipe = write_recipe(world, "finetune", world / "any", model={"vlm": str(directory)})
    assert export.main([str(directory), str(tmp_path / "out"), "--recipe", str(recipe)]) == 2
    assert re.search(message, capsys.readouterr().err, re.DOTALL)
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_whole_checkpoint_is_taken_by_both(world, tmp_path):
    recipe = write_recipe(world, "finetune", tmp_path / "run", model={"vlm": str(world / "whole")})
    assert run.main(["--ds_config", CONFIG, "--recipe", str(recipe), "--dry-run"]) == 0
    assert export.main([str(world / "whole"), str(tmp_path / "out"), "--recipe", str(recipe)]) == 0


def test_alignment_refuses_a_tokenizer_smaller_than_the_embedding(world, tmp_path, capsys):
    save_model(build_language(text_config("tiny-lm", vocab_size=524), torch.Generator()), tmp_path / "language")
    recipe = write_recipe(world, "align", tmp_path / "run", model={"language": str(tmp_path / "language")})
    assert run.main(["--ds_config", CONFIG, "--recipe", str(recipe), "--dry-run"]) == 2
    assert "model.tokenizer: got 517 tokens" in capsys.readouterr().err


def test_a_tokenizer_without_internvls_tokens_is_refused(world, tmp_path):
    shutil.copytree(world / "tokenizer", tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"] = [entry for entry in content["added_tokens"] if entry["content"] != IMAGE_TOKEN]
    file.write_text(json.dumps(content))
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(StageError, match=rf"model\.tokenizer: got .* lacks {IMAGE_TOKEN}, expected one with"):
        tokenizer_from("model.tokenizer", str(tmp_path / "tokenizer"))
