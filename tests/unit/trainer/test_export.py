"""Exports as stock transformers sees them."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    InternVLForConditionalGeneration,
)

from data_shards.chat import IMAGE_END, IMAGE_START, IMAGE_TOKEN, internlm2_chat
from data_shards.decode import decode_jpeg
from data_shards.tiling import tile_images
from data_shards.view_layout import ViewLayout
from models.convert import convert
from models.presets import vision_config
from models.saving import save_model
from models.sharded_safetensors import ShardedWriter
from models.vision import normalise_tiles
from models.vlm import build_vision, load_vlm
from tests.unit.trainer.tiny_run import lively_vlm, make_run, tiny_frame, tiny_tokenizer
from trainer.evaluate.predict import answer_frames
from trainer.export import ExportError, export, main
from trainer.preprocessing import Preprocessing, PreprocessingError, read_preprocessing


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = make_run(tmp_path_factory.mktemp("run"), max_tiles=4, thumbnail=True, exact=True)
    (directory / "summary.json").write_text('{"stage": "finetune", "loss_last": 0.25}')
    return directory


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "export"
    assert export(run_dir, out) == []
    return out


def test_stock_classes_load_everything_without_code(exported, run_dir):
    model = AutoModelForImageTextToText.from_pretrained(exported)
    assert type(model) is InternVLForConditionalGeneration
    trained = load_vlm(run_dir / "model").state_dict()
    assert all(torch.equal(weight, trained[name]) for name, weight in model.state_dict().items())
    assert not list(exported.glob("*.py"))
    assert not list(exported.glob("*.bin"))
    config = json.loads((exported / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    assert config["text_config"]["tie_word_embeddings"] is False
    assert "auto_map" not in config

    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|im_end|>"), 2]
    assert model.generation_config.do_sample is False
    assert read_preprocessing(exported).system == "You drive."


def test_chat_template_writes_the_trained_prompt(exported):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    content = [{"type": "image"}, {"type": "text", "text": "is the car stopped"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    template = internlm2_chat(system="You drive.")
    assert text == f"{template.opening()}<|im_start|>user\n{IMAGE_TOKEN}\n" + template.question("is the car stopped")


@pytest.mark.parametrize("size", [(160, 90), (90, 160), (300, 300), (100, 100)])
def test_stock_image_processor_makes_the_same_tiles(exported, size):
    processor = AutoImageProcessor.from_pretrained(exported)
    image = decode_jpeg(tiny_frame(3, 0, cameras=1, size=size).images["CAM_FRONT_LEFT"])
    ours = normalise_tiles(
        torch.from_numpy(tile_images([image], ViewLayout(tile_size=112, max_tiles=4, thumbnail=True, exact=True)))
    )
    stock = processor(images=[Image.fromarray(image)], crop_to_patches=True, return_tensors="pt")
    assert stock["num_patches"].tolist() == [len(ours)]
    assert (stock["pixel_values"] - ours).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(160, 90), (100, 100)])
def test_stock_processor_and_generation_answer_as_the_trainer_does(exported, size):
    frame = tiny_frame(3, 6, cameras=1, size=size)
    frame = replace(frame, images={"IMAGE_0": frame.images["CAM_FRONT_LEFT"]})
    settings = read_preprocessing(exported)
    model = AutoModelForImageTextToText.from_pretrained(exported)
    processor = AutoProcessor.from_pretrained(exported)
    ours = answer_frames(
        model, processor.tokenizer, [frame], template=settings.chat(), layout=settings.view, max_new_tokens=8
    )[0]
    assert len(set(ours)) > 2
    image = Image.fromarray(decode_jpeg(frame.images["IMAGE_0"]))
    for question, expected in zip(frame.questions, ours, strict=True):
        content = [{"type": "image", "image": image}, {"type": "text", "text": question.question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        out = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(out, skip_special_tokens=True).strip() == expected


def test_image_token_text_is_what_the_stock_processor_expands(exported):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    assert tokenizer.context_image_token == IMAGE_TOKEN
    written = json.loads((exported / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"local_files_only", "is_local"} & written.keys()
    assert (tokenizer.start_image_token, tokenizer.end_image_token) == (IMAGE_START, IMAGE_END)
    model = AutoModelForImageTextToText.from_pretrained(exported)
    assert tokenizer.context_image_token_id == model.config.image_token_id
    processor = json.loads((exported / "processor_config.json").read_text())
    assert processor == {
        "processor_class": "QianfanOCRProcessor",
        "image_seq_length": 16,
        "image_placeholder_token": IMAGE_TOKEN,
    }


def test_one_tile_an_image_holds_for_the_stock_processor_class(tmp_path):
    export(make_run(tmp_path / "run"), tmp_path / "export")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "export")
    out = processor(images=[np.zeros((90, 300, 3), np.uint8)], crop_to_patches=True, return_tensors="pt")
    assert out["pixel_values"].shape == (1, 3, 112, 112)


def test_weights_are_cut_into_shards_that_stock_transformers_joins(run_dir, exported, tmp_path):
    export(run_dir, tmp_path / "export", max_shard_size="500KB")
    shards = sorted((tmp_path / "export").glob("model-*.safetensors"))
    assert len(shards) > 1
    index = json.loads((tmp_path / "export" / "model.safetensors.index.json").read_text())
    assert {shard.name for shard in shards} == set(index["weight_map"].values())
    assert not (tmp_path / "export" / "model.safetensors").exists()
    whole = AutoModelForImageTextToText.from_pretrained(exported).state_dict()
    joined = AutoModelForImageTextToText.from_pretrained(tmp_path / "export").state_dict()
    assert all(torch.equal(weight, joined[name]) for name, weight in whole.items())
    with pytest.raises(ValueError, match="shard size: got 'many'"):
        export(run_dir, tmp_path / "other", max_shard_size="many")


def test_the_layout_of_opengvlab_goes_back_to_the_same_weights(run_dir, exported, tmp_path):
    notes = export(run_dir, tmp_path / "theirs", to="opengvlab")
    assert any("copied as they are" in note for note in notes)
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["llm_config"]["vocab_size"] == 305
    shown = {name: config[name] for name in ("template", "dynamic_image_size", "use_thumbnail", "max_dynamic_patch")}
    assert list(shown.values()) == ["internlm2-chat", True, True, 4]
    card = (tmp_path / "theirs" / "README.md").read_text()
    assert "models.convert" in card
    assert "pipeline(" not in card
    convert(tmp_path / "theirs", tmp_path / "back", to="transformers")
    ours = AutoModelForImageTextToText.from_pretrained(exported).state_dict()
    back = AutoModelForImageTextToText.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(weight, back[name]) for name, weight in ours.items())


def test_a_run_with_only_the_sentencepiece_model_exports_the_same_tokenizer(exported, tmp_path):
    run_dir = make_run(tmp_path / "run")
    for file in (run_dir / "model").glob("tokenizer*.json"):
        file.unlink()
    (run_dir / "tokenizer.model").rename(run_dir / "model" / "tokenizer.model")
    export(run_dir, tmp_path / "export")
    text = "<|im_start|>what is the car<|im_end|><img>"
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "export")(text)["input_ids"]
        == AutoTokenizer.from_pretrained(exported)(text)["input_ids"]
    )


def test_a_dtype_may_be_chosen(run_dir, tmp_path):
    export(run_dir, tmp_path / "export", dtype="bfloat16")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "export")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_a_distill_run_is_refused(run_dir, tmp_path):
    save_model(build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0)), tmp_path / "model")
    with pytest.raises(ExportError, match="vision tower alone.*align and finetune"):
        export(tmp_path, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_the_linear_projector_needs_leave(tmp_path):
    run_dir = make_run(tmp_path / "run", projector="linear")
    with pytest.raises(ExportError, match="--allow-custom"):
        export(run_dir, tmp_path / "export")
    with pytest.raises(ExportError, match="one layer cannot be written as two"):
        export(run_dir, tmp_path / "export", allow_custom=True, to="opengvlab")
    remarks = export(run_dir, tmp_path / "export", allow_custom=True)
    assert ["load_vlm" in remark for remark in remarks] == [True]
    load_vlm(tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert "models.vlm.load_vlm" in card
    assert "pipeline(" not in card


def test_what_stock_preprocessing_does_otherwise_is_said(tmp_path):
    canvas = export(make_run(tmp_path / "a", mode="canvas", max_tiles=12, thumbnail=True), tmp_path / "x")
    assert ["672x224 canvas" in remark for remark in canvas] == [True]
    bare = export(make_run(tmp_path / "b", max_tiles=4), tmp_path / "y")
    assert ["thumbnail" in remark for remark in bare] == [True]


def test_a_failure_leaves_nothing_behind(run_dir, tmp_path, monkeypatch, capsys):
    def full(settings: Preprocessing, directory: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("trainer.export_processor.write_preprocessing", full)
    with pytest.raises(OSError, match="no space"):
        export(run_dir, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []
    assert main([str(run_dir), str(tmp_path / "export")]) == 1
    assert "nothing was written: no space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_signal_leaves_nothing_behind(run_dir, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ShardedWriter, "close", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    assert main([str(run_dir), str(tmp_path / "export")]) == 1
    assert "export stopped, nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_is_not_finished_is_refused_with_what_finishes_it(run_dir, tmp_path, capsys):
    shutil.copy(run_dir / "recipe.yaml", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert main([str(tmp_path), str(tmp_path / "export")]) == 2
    assert "got a run without `model/`" in capsys.readouterr().err


def test_a_directory_in_use_is_left_alone(run_dir, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ExportError, match="path in use"):
        export(run_dir, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    run_dir = make_run(tmp_path / "run")
    tokenizer = tiny_tokenizer(tmp_path / "other")
    tokenizer.add_tokens(["one_more"])
    vlm = lively_vlm(tokenizer)
    vlm.config.image_token_id = 5
    save_model(vlm, run_dir / "model")
    with pytest.raises(ExportError, match="got a tokenizer of 305 .* expected 306, .* with <IMG_CONTEXT> = 5"):
        export(run_dir, tmp_path / "export")
    (run_dir / "model" / "tokenizer.json").unlink()
    with pytest.raises(ExportError, match=r"no tokenizer\.json"):
        export(run_dir, tmp_path / "export")


@pytest.mark.parametrize("more", [1, -1])
def test_a_tokenizer_of_another_size_than_the_embedding_is_refused(tmp_path, more):
    run_dir = make_run(tmp_path / "run")
    tokenizer = tiny_tokenizer(tmp_path / "other")
    vlm = lively_vlm(tokenizer)
    vlm.resize_token_embeddings(len(tokenizer) - more)
    save_model(vlm, run_dir / "model")
    with pytest.raises(ExportError, match=f"of 305 tokens .* expected {305 - more}, as many as the"):
        export(run_dir, tmp_path / "export")
    assert main([str(run_dir), str(tmp_path / "export")]) == 2
    assert not (tmp_path / "export").exists()


def test_cut_weights_are_refused(tmp_path, capsys):
    run_dir = make_run(tmp_path / "run")
    weights = run_dir / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main([str(run_dir), str(tmp_path / "export")]) == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


def test_settings_of_another_model_are_refused(tmp_path):
    with pytest.raises(ExportError, match="got 448, expected 112"):
        export(make_run(tmp_path / "run", tile_size=448), tmp_path / "export")
    (tmp_path / "run" / "recipe.yaml").unlink()
    with pytest.raises(PreprocessingError, match="--recipe"):
        export(tmp_path / "run", tmp_path / "export")
    (tmp_path / "run" / "model" / "preprocessing.json").write_text('{"view": {"tiles": 1}}')
    with pytest.raises(PreprocessingError, match="export again"):
        export(tmp_path / "run", tmp_path / "export")


def test_command_line_gives_status_and_message(run_dir, tmp_path, capsys):
    assert main([str(run_dir), str(tmp_path / "export")]) == 0
    assert "export: written; its README.md says how to load it" in capsys.readouterr().out
    assert main([str(run_dir), str(tmp_path / "export")]) == 2
    assert "path in use" in capsys.readouterr().err
