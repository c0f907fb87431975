"""Answers of whole frames against stock generation, one question at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_shards.asked import question_order
from data_shards.chat import STOP, internlm2_chat, tokenize_prompts
from data_shards.coords import CoordinateFormat
from data_shards.decode import decode_jpeg
from data_shards.schema import CAMERAS
from data_shards.tiling import tile_images
from data_shards.view_layout import ViewLayout, tiles_per_image
from models.vision import normalise_tiles
from tests.unit.trainer.tiny_run import lively_vlm, tiny_frame, tiny_tokenizer
from trainer.evaluate import predict
from trainer.evaluate.perturb import parse_perturbation, perturb
from trainer.evaluate.predict import PredictError, answer_frames
from trainer.evaluate.sampling import Sampling

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


def test_a_perturbation_reaches_the_model(model, tokenizer):
    frames = [tiny_frame(0, 5), tiny_frame(2, 3)]
    shuffled = answer(model, tokenizer, frames, perturbation=parse_perturbation("shuffle-views"))
    assert shuffled != answer(model, tokenizer, frames)
    by_hand = [
        replace(frame, images={name: _jpeg(image) for name, image in _shuffled(frame).items()}) for frame in frames
    ]
    expected = [stock_answers(model, tokenizer, frame, VIEWS, 12) for frame in by_hand]
    assert shuffled == expected


def _shuffled(frame):
    images = {name: decode_jpeg(data) for name, data in frame.images.items()}
    return perturb(images, parse_perturbation("shuffle-views"), key=frame.key)


def _jpeg(image):
    """The view's own JPEG again: moved views are other views' bytes."""
    return next(data for data in _jpegs() if (decode_jpeg(data) == image).all())


def _jpegs():
    return [data for number, count in ((0, 5), (2, 3)) for data in tiny_frame(number, count).images.values()]


@pytest.mark.parametrize("limits", [{"batch_rows": 2}, {"batch_tokens": 150}])
def test_sampled_answers_do_not_depend_on_their_batch(model, tokenizer, limits):
    frames = [tiny_frame(0, 5), tiny_frame(2, 3)]
    sampling = Sampling(temperature=1.5, top_p=0.9, seed=3)
    drawn = answer(model, tokenizer, frames, sampling=sampling)
    assert drawn == answer(model, tokenizer, frames, sampling=sampling, **limits)
    assert drawn != answer(model, tokenizer, frames)
    assert drawn != answer(model, tokenizer, frames, sampling=Sampling(temperature=1.5, top_p=0.9, seed=4))


def test_points_are_asked_for_in_the_models_coordinates_and_answered_in_pixels(model, tokenizer, monkeypatch):
    frame = tiny_frame(0, 2)
    asked = "What is <c1,CAM_BACK,1088.3,497.5>?"
    frame = replace(frame, questions=tuple(replace(q, question=asked) for q in frame.questions))
    prompts = []

    def answered(model, batch, *rest):
        prompts.extend(tokenizer.decode(segment) for unit in batch for segment in unit.tokens.segments)
        return [
            tokenizer.encode("A car <c2,CAM_FRONT,[500,250]>, a <c3,CAM_FRONT,[1,1]>.", add_special_tokens=False)
        ] * 2

    monkeypatch.setattr(predict, "_answer_batch", answered)
    template = internlm2_chat(coordinates=CoordinateFormat(space="canvas", decimals=0))
    answers = answer_frames(model, tokenizer, [frame], template=template, layout=VIEWS, max_new_tokens=12)
    assert answers == [["A car <c2,CAM_FRONT,800.0,450.0>, a <c3,CAM_FRONT,[1,1]>."] * 2]
    assert len(prompts) == 2
    assert all("<c1,CAM_BACK,[560,776]>?" in prompt for prompt in prompts)
