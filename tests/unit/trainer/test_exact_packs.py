"""Packs from the loader, through a stage, against the stock model on one conversation at a time: loss and gradients."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from data_shards.decode import decode_jpeg
from data_shards.index import load_index
from data_shards.loader import PackLoader
from data_shards.read import read_frame
from data_shards.schema import CAMERAS, Question
from data_shards.tiling import tile_images
from data_shards.write import write_shards
from models.vision import normalise_tiles
from tests.helpers.stages import driving_frames, general_frames, make_world, write_recipe
from tests.unit.models.tiny import float64_norm
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.stages import make_stage


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = make_world(tmp_path_factory.mktemp("world"), frames=2)
    one, *_ = driving_frames(1, seed=5)
    write_shards([one], root / "one", source="test", licence="none")
    talk = general_frames(3, seed=6)
    turns = Question(question="And then?", answer="Yes.", kind="general", history=(("Is it red?", "No."),))
    mixed = [*driving_frames(2, seed=7), *(replace(f, questions=(*f.questions, turns)) for f in talk)]
    write_shards(mixed, root / "mixed", source="test", licence="none")
    return root


def make(world, name, run_dir, dtype, loss_weight):
    """A finetune stage on fresh weights, and its packs of the first epoch."""
    recipe, _ = load_recipe(
        write_recipe(
            world, "align", run_dir, model={"vision": "tiny-student"}, loss_weight=loss_weight,
            data={
                "datasets": [{"path": str(world / name)}], "max_tokens": 6000, "questions_per_visit": 32,
                "coordinates": {"space": "pixels", "decimals": 1},  # texts to the letter
            },
        )
    )  # fmt: skip
    stage = make_stage(recipe, dtype)
    stage.model.requires_grad_(True)
    data = make_data(recipe, stage.text, None)
    loader = PackLoader(data.sources, data.stream, layout=recipe.data.view, text=stage.text)
    return stage, [batch for (batch,), _ in zip(loader, range(data.stream.packs_an_epoch()), strict=False)]


def conversation(stage, frame, question):
    """Token ids of a whole conversation, tokenised at once, its tiles, and the places of its answers' tokens."""
    text, view = stage.text, stage.recipe.data.view
    canvas = set(frame.images) == set(CAMERAS)
    names = CAMERAS if canvas else tuple(frame.images)
    tiles = tile_images([decode_jpeg(frame.images[name]) for name in names], view)
    image = "<img>" + "<IMG_CONTEXT>" * (len(tiles) * text.tokens_per_tile) + "</img>\n"
    written = "<s>"
    spans = []
    for number, (asked, answer) in enumerate((*question.history, (question.question, question.answer))):
        shown = image if frame.images and not number else ""
        written += f"<|im_start|>user\n{shown}{asked}<|im_end|><|im_start|>assistant\n"
        spans.append((len(written), len(written) + len(answer.strip()) + len("<|im_end|>")))
        written += f"{answer.strip()}<|im_end|>"
    encoding = text.tokenizer.backend_tokenizer.encode(written, add_special_tokens=False)
    learnt = [i for i, (begin, _) in enumerate(encoding.offsets) if any(start <= begin < end for start, end in spans)]
    return torch.tensor(encoding.ids), tiles, torch.tensor(learnt)


def alone(stage, model, frame, question, dtype, loss_weight):
    """Weighted loss of one question through the stock forward."""
    ids, tiles, learnt = conversation(stage, frame, question)
    pixels = normalise_tiles(torch.from_numpy(tiles), dtype) if len(tiles) else None
    logits = model(input_ids=ids[None], pixel_values=pixels, use_cache=False).logits[0, learnt - 1]
    weight = float(np.float32(len(learnt) ** -{"token": 0.0, "square": 0.5}[loss_weight]))  # as batches store it
    return cross_entropy(logits, ids[learnt], reduction="sum") * weight


@pytest.mark.parametrize(
    ("name", "dtype", "loss_weight", "bound"),
    [
        ("one", torch.float64, "token", 1e-9),
        ("mixed", torch.float64, "square", 1e-9),
        ("mixed", torch.float32, "token", 1e-5),
    ],
)
def test_loss_and_every_gradient_of_packs_equal_those_of_questions_one_by_one(
    world, tmp_path, monkeypatch, name, dtype, loss_weight, bound
):
    # The stock RMSNorm rounds float64 to float32; its rotary tables are float32 too, and the same on both sides.
    monkeypatch.setattr(LlamaRMSNorm, "forward", float64_norm)
    stage, batches = make(world, name, tmp_path / "run", dtype, loss_weight)
    stock = copy.deepcopy(stage.vlm)
    stock.model.language_model.set_attn_implementation("sdpa")
    index = load_index(world / name)
    frames = {entry.key: read_frame(index, i) for i, entry in enumerate(index.samples)}

    packed = sum(stage.loss(stage.model, batch, torch.device("cpu")).total for batch in batches)
    refs = [ref for batch in batches for ref in batch.meta.question_refs]
    assert sorted(refs) == sorted((key, q) for key, frame in frames.items() for q in range(len(frame.questions)))
    assert len(batches) < len(refs) / 2
    single = sum(alone(stage, stock, frames[key], frames[key].questions[q], dtype, loss_weight) for key, q in refs)
    assert float(packed.detach()) == pytest.approx(float(single.detach()), rel=bound)

    packed.backward()
    single.backward()
    whole = float(torch.stack([theirs.grad.norm() for theirs in stock.parameters()]).norm())
    compared = 0
    for (parameter, ours), theirs in zip(stage.vlm.named_parameters(), stock.parameters(), strict=True):
        # A bias of keys shifts all scores of a query alike: its gradient is nothing but rounding.
        scale = whole if parameter.endswith("k_proj.bias") else float(theirs.grad.norm())
        assert scale > 0, parameter
        assert float((ours.grad - theirs.grad).norm()) <= bound * scale, parameter
        compared += "vision_tower" in parameter
    assert compared > 10
