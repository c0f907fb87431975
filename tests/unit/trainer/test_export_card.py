"""The model card of an export, and that the code in it runs."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline

from data_shards.chat import STOP
from data_shards.decode import decode_jpeg
from data_shards.schema import CAMERAS
from data_shards.tiling import stitch_views
from data_shards.tokenizer import load_tokenizer
from data_shards.view_layout import ViewLayout
from models.saving import save_model
from models.vlm import load_vlm
from tests.unit.trainer.tiny_run import make_run, tiny_frame
from trainer.evaluate.predict import answer_frames
from trainer.export import export
from trainer.preprocessing import read_preprocessing

QUESTION = "What are the important objects in the current scene?"


@pytest.fixture(scope="module", params=["views", "canvas"])
def exported(request, tmp_path_factory):
    max_tiles = {"views": 2, "canvas": 12}[request.param]
    work = tmp_path_factory.mktemp("card")
    run_dir = make_run(work / "run", mode=request.param, max_tiles=max_tiles, thumbnail=True, exact=True)
    _write_words_only(run_dir / "model")
    export(run_dir, work / "export")
    return work / "export"


def _write_words_only(model):
    """No random bytes, which are no text and spoil the newline before them when decoded, and no end."""
    vlm = load_vlm(model)
    stop = load_tokenizer(model).convert_tokens_to_ids(STOP)
    with torch.no_grad():
        vlm.lm_head.weight[[*range(2, 259), stop]] = 0
    save_model(vlm, model)


@pytest.fixture(scope="module")
def frame():
    """Asked exactly the question of the card."""
    made = tiny_frame(7, 1)
    return replace(made, questions=(replace(made.questions[0], question=QUESTION),))


def run_card(exported, frame, monkeypatch, capsys, block):
    """Run a code block of the card in the export's directory; returns its names and what it printed."""
    for camera, data in frame.images.items():
        (exported / f"{camera}.jpg").write_bytes(data)
    (exported / "picture.jpg").write_bytes(frame.images["CAM_FRONT"])
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(exported)
    names = {}
    exec(compile(blocks[block], "README.md", "exec"), names)
    return names, capsys.readouterr().out.strip()


def answer(exported, frame):
    settings = read_preprocessing(exported)
    model, tokenizer = AutoModelForImageTextToText.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    [[text]] = answer_frames(
        model, tokenizer, [frame], template=settings.chat(), layout=settings.view, max_new_tokens=64
    )
    return text


def test_the_cards_code_for_six_cameras_answers_as_the_trainer_does(exported, frame, monkeypatch, capsys):
    names, printed = run_card(exported, frame, monkeypatch, capsys, 1)
    assert printed == answer(exported, frame)
    assert len(printed) > 5
    if "canvas" in names:
        layout = ViewLayout(tile_size=112, mode="canvas", exact=True)
        ours = stitch_views([decode_jpeg(frame.images[camera], exact=True) for camera in CAMERAS], layout)
        np.testing.assert_array_equal(np.asarray(names["canvas"]), ours)


def test_the_cards_code_for_one_image_answers_as_the_trainer_does(exported, frame, monkeypatch, capsys):
    _, printed = run_card(exported, frame, monkeypatch, capsys, 0)
    assert printed == answer(exported, replace(frame, images={"IMAGE_0": frame.images["CAM_FRONT"]}))


def test_a_plain_prompt_may_be_given_with_its_image(exported, frame):
    (exported / "picture.jpg").write_bytes(frame.images["CAM_FRONT"])
    ask = pipeline("image-text-to-text", model=str(exported))
    prompt = "<s><|im_start|>user\n<IMG_CONTEXT>\nwhat<|im_end|><|im_start|>assistant\n"
    [row] = ask(images=Image.open(exported / "picture.jpg"), text=prompt, max_new_tokens=4, return_full_text=False)
    assert isinstance(row["generated_text"], str)
    processor = AutoProcessor.from_pretrained(exported)
    assert type(processor).__name__ == "QianfanOCRProcessor"
    assert type(processor.image_processor).__name__.startswith("GotOcr2ImageProcessor")


def test_the_card_tells_recipe_data_and_metrics(tmp_path):
    run_dir = make_run(tmp_path / "run", camera_max_tiles=None)
    data = tmp_path / "data"
    data.mkdir()
    (data / "dataset.json").write_text(
        '{"source": "synthetic", "licence": "CC0", '
        '"shards": [{"name": "a.tar", "samples": 3, "questions": 7, "bytes": 1}]}'
    )
    recipe = run_dir / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("path: elsewhere", f"path: {data}\n  - path: {tmp_path / 'gone'}"))
    (run_dir / "summary.json").write_text('{"stage": "finetune", "loss_last": 0.25}')
    export(run_dir, tmp_path / "my-model")
    card = (tmp_path / "my-model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---\n\n# my-model\n")
    digest = hashlib.sha256((data / "dataset.json").read_bytes()).hexdigest()
    assert f"| data | default | synthetic | CC0 | 3 | 7 | `{digest}` |" in card
    assert "| gone | default | not at hand when exported |" in card
    assert "| loss_last | 0.25 |" in card
    assert "questions_per_visit: 16" in card
    assert 'system message: "You drive."' in card


def test_a_model_without_its_run_says_so_in_the_card(tmp_path):
    run_dir = make_run(tmp_path / "run")
    model = run_dir / "model"
    export(model, tmp_path / "first")
    export(tmp_path / "first", tmp_path / "second")
    card = (tmp_path / "second" / "README.md").read_text()
    assert "recipe was not at hand" in card
    assert "No summary of the run" in card


def test_a_damaged_summary_is_named(tmp_path):
    run_dir = make_run(tmp_path / "run")
    (run_dir / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json.*run the stage again"):
        export(run_dir, tmp_path / "export")
    assert not (tmp_path / "export").exists()
