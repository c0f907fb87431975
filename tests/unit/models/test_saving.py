"""Directories written parameter by parameter against those of `save_pretrained`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import InternVLForConditionalGeneration

from models.presets import text_config, vision_config
from models.saving import ModelWriter, disk_keys, save_model
from models.vlm import build_language, build_vision
from tests.unit.models.tiny import tiny_vlm


def _contents(directory: Path) -> dict[str, object]:
    return {file.name: json.loads(file.read_text()) for file in directory.glob("*.json")}


@pytest.mark.parametrize(
    "build",
    [
        tiny_vlm,
        lambda: tiny_vlm(projector="linear"),
        lambda: build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0)),
        lambda: build_language(text_config("tiny-lm", vocab_size=64), torch.Generator().manual_seed(0)).half(),
    ],
    ids=["whole", "linear", "tower", "language"],
)
def test_files_are_those_of_save_pretrained(tmp_path, build):
    build().save_pretrained(tmp_path / "stock")
    save_model(build(), tmp_path / "ours")
    assert {p.name for p in (tmp_path / "ours").iterdir()} == {p.name for p in (tmp_path / "stock").iterdir()}
    assert _contents(tmp_path / "ours") == _contents(tmp_path / "stock")
    ours, stock = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "stock"))
    assert ours.keys() == stock.keys()
    for name, value in stock.items():
        assert ours[name].dtype == value.dtype
        assert torch.equal(ours[name], value), name


def test_a_model_is_written_over_a_former_one(tmp_path):
    save_model(tiny_vlm(1), tmp_path)
    save_model(tiny_vlm(2), tmp_path)
    loaded = InternVLForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, tiny_vlm(2).lm_head.weight)


def test_values_may_come_from_elsewhere(tmp_path):
    state = {name: value.detach() + 1 for name, value in tiny_vlm().named_parameters()}
    save_model(tiny_vlm().to("meta"), tmp_path, state=state)
    loaded = InternVLForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, state["lm_head.weight"])


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail() -> None:
        model = tiny_vlm()
        with ModelWriter(model, tmp_path / "model") as writer:
            writer.add("lm_head.weight", model.lm_head.weight)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert not (tmp_path / "model").exists()


def test_keys_are_transformers_legacy_spelling():
    keys = disk_keys(tiny_vlm())
    assert keys["lm_head.weight"] == "language_model.lm_head.weight"
    assert keys["model.vision_tower.embeddings.cls_token"] == "vision_tower.embeddings.cls_token"
