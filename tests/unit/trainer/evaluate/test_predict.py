"""Answers of whole frames against stock generation; the command line against shards."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from data_shards.chat import STOP, internlm2_chat, tokenize_prompts
from data_shards.decode import decode_jpeg
from data_shards.schema import CAMERAS
from data_shards.tiling import ViewLayout, tile_images, tiles_per_image
from data_shards.write import write_shards
from models.vision import normalise_tiles
from tests.unit.trainer.tiny_run import lively_vlm, make_run, tiny_frame, tiny_tokenizer
from trainer.evaluate.predict import PredictError, add_arguments, answer_frames, question_order, run
from trainer.export import export

TEMPLATE = internlm2_chat(system="You drive.")
VIEWS = ViewLayout(tile_size=112, max_tiles=1, thumbnail=False)
CANVAS = ViewLayout(tile_size=112, mode="canvas", max_tiles=2)


def stock_answers(model, tokenizer, frame, layout, limit, *, black=False) -> list[str]:
    """One `generate` a question, with prompt and tiles put together here."""
    images = [decode_jpeg(frame.images[name]) for name in frame.images]
    counts = [16 * n for n in tiles_per_image([(i.shape[1], i.shape[0]) for i in images], layout)]
    tokens = tokenize_prompts(frame, counts, tokenizer, TEMPLATE)
    tiles = tile_images(images, layout)
    pixels = normalise_tiles(torch.from_numpy(np.zeros_like(tiles) if black else tiles))
    answers = []
    for segment in tokens.segments:
        ids = torch.tensor(np.concatenate([tokens.prefix, segment])).long()[None]
        out = model.eval().generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **({"pixel_values": pixels.double()} if len(pixels) else {}),
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=[tokenizer.convert_tokens_to_ids(STOP), tokenizer.eos_token_id],
            pad_token_id=tokenizer.pad_token_id,
        )
        answers.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return answers


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer):
    return lively_vlm(tokenizer).double()


def answer(model, tokenizer, frames, layout=VIEWS, **options):
    return answer_frames(model, tokenizer, frames, template=TEMPLATE, layout=layout, max_new_tokens=12, **options)


@pytest.mark.parametrize("layout", [VIEWS, CANVAS], ids=["views", "canvas"])
def test_answers_equal_stock_generation(model, tokenizer, layout):
    frames = [tiny_frame(0, 5), tiny_frame(1, 3), tiny_frame(2, 2, cameras=6 if layout is CANVAS else 0)]
    expected = [stock_answers(model, tokenizer, frame, layout, 12) for frame in frames]
    assert len({text for texts in expected for text in texts}) > 6
    assert answer(model, tokenizer, frames, layout) == expected


@pytest.mark.parametrize("limits", [{"batch_rows": 2}, {"batch_tokens": 150}, {"batch_rows": 1, "batch_tokens": 1}])
def test_batching_does_not_change_answers(model, tokenizer, limits):
    frames = [tiny_frame(0, 5), tiny_frame(1, 0), tiny_frame(2, 3)]
    assert answer(model, tokenizer, frames, **limits) == answer(model, tokenizer, frames)


def test_only_the_questions_asked_are_answered_in_their_order(model, tokenizer):
    frame = tiny_frame(0, 5)
    whole = answer(model, tokenizer, [frame])[0]
    assert len(set(whole)) > 2
    assert answer(model, tokenizer, [frame, frame], question_ids=[[3, 0], []]) == [[whole[3], whole[0]], []]


def test_black_images_hide_the_views(model, tokenizer):
    frame = tiny_frame(0, 5)
    blind = answer(model, tokenizer, [frame], black=True)[0]
    assert blind == stock_answers(model, tokenizer, frame, VIEWS, 12, black=True)
    assert blind != answer(model, tokenizer, [frame])[0]


def test_canvas_is_stitched_in_camera_order_whatever_the_frames(model, tokenizer):
    frame = tiny_frame(0, 2)
    images = dict(frame.images)
    turned = type(frame)(**(vars(frame) | {"images": {name: images[name] for name in reversed(CAMERAS)}}))
    assert answer(model, tokenizer, [turned], CANVAS) == answer(model, tokenizer, [frame], CANVAS)


def test_tiles_of_another_size_are_refused(model, tokenizer):
    with pytest.raises(PredictError, match="got 448, expected 112"):
        answer(model, tokenizer, [tiny_frame(0, 1)], ViewLayout())


def test_question_order_is_that_of_submission_ids():
    frame = tiny_frame(0, 9)
    order = question_order(frame)
    assert order == [1, 3, 7, 0, 4, 6]
    kinds = [frame.questions[i].kind for i in order]
    assert kinds == ["perception", "prediction", "prediction", "planning", "planning", "behavior"]


def predict(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("shards")
    write_shards([tiny_frame(0, 5), tiny_frame(1, 0), tiny_frame(2, 4)], directory, source="test", licence="none")
    return directory


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def test_command_line_writes_submission_rows(run_dir, shards, tmp_path):
    out = tmp_path / "deep" / "predictions.json"
    assert predict("--model", run_dir / "model", "--data", shards, "--out", out, "--max-new-tokens", 8) == 0
    rows = json.loads(out.read_text())
    assert [row["id"] for row in rows] == [f"s0_f_{i}" for i in range(4)] + [f"s2_f_{i}" for i in range(3)]
    frame = tiny_frame(0, 5)
    assert [row["question"] for row in rows[:4]] == [frame.questions[i].question for i in (1, 3, 0, 4)]
    model = AutoModelForImageTextToText.from_pretrained(run_dir / "model").double()
    stock = stock_answers(model, AutoTokenizer.from_pretrained(run_dir / "model"), frame, VIEWS, 8)
    assert [row["answer"] for row in rows[:4]] == [stock[i] for i in (1, 3, 0, 4)]


def test_export_answers_as_the_run_does_and_blind_otherwise(run_dir, shards, tmp_path):
    export(run_dir, tmp_path / "export")
    for name, model, options in (
        ("run", run_dir / "model", []),
        ("export", tmp_path / "export", []),
        ("blind", tmp_path / "export", ["--black"]),
    ):
        out = tmp_path / f"{name}.json"
        assert predict("--model", model, "--data", shards, "--out", out, "--max-new-tokens", 8, *options) == 0
    assert (tmp_path / "run.json").read_text() == (tmp_path / "export.json").read_text()
    assert (tmp_path / "run.json").read_text() != (tmp_path / "blind.json").read_text()


def test_mistakes_end_in_status_2_with_their_fix(run_dir, shards, tmp_path, capsys):
    out = tmp_path / "predictions.json"
    assert predict("--model", tmp_path / "none", "--data", shards, "--out", out) == 2
    assert "preprocessing.json" in capsys.readouterr().err
    recipe = run_dir / "recipe.yaml"
    assert predict("--model", tmp_path / "none", "--data", shards, "--out", out, "--recipe", recipe) == 2
    assert "config.json: no such file" in capsys.readouterr().err
    assert predict("--model", run_dir / "model", "--data", tmp_path, "--out", out) == 2
    assert str(tmp_path) in capsys.readouterr().err
    write_shards([tiny_frame(1, 0)], tmp_path / "untagged", source="test", licence="none")
    assert predict("--model", run_dir / "model", "--data", tmp_path / "untagged", "--out", out) == 2
    assert "--form test" in capsys.readouterr().err
    assert not out.exists()
