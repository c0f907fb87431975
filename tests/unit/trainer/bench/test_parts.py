"""FLOPs that the loss of a pack needs: matrix products as torch counts them without padding, attention counted by hand
from the tokens that see each other."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from data_shards.collate import to_tensors
from data_shards.pack import filler_pack
from models.distill_heads import Codebook
from trainer.bench.packs import random_batches, without_padding
from trainer.bench.parts import useful_flops
from trainer.bench.settings import BenchSettings, bench_recipe, pack_settings, write_codebook
from trainer.checkpointing_section import CheckpointingSection
from trainer.stages import make_stage

CPU = torch.device("cpu")
MATRIX_PRODUCTS = {"aten.mm", "aten.addmm", "aten.convolution", "aten.convolution_backward"}
"""All that torch counts of a step on a CPU: it has no formula for the attention there."""

TILE_TOKENS = 65
STUDENT_SCORES = 4 * 4 * TILE_TOKENS**2 * 96
TEACHER_SCORES = 5 * 4 * TILE_TOKENS**2 * 160
"""Of all layers of the tiny towers for one tile, forward: queries by keys, and weights by values."""

PAIR = 4 * 4 * 4 * 32
"""Of the four layers of the tiny language model, for each of four heads of width 32."""

SETTINGS = BenchSettings(preset="tiny", stage="align", ds_config=Path("x"), tokens=1100, tiles=39)
CASES = {
    "align": SETTINGS,
    "align, padded": replace(SETTINGS, padded=True),
    "align, classic and padded": replace(SETTINGS, questions_per_visit=1, padded=True),
    "finetune": replace(SETTINGS, stage="finetune"),
    "finetune, padded": replace(SETTINGS, stage="finetune", padded=True),
    "distill": replace(SETTINGS, stage="distill", tiles=13),
    "distill, cached": replace(SETTINGS, stage="distill", tiles=13, cached=True),
}


def make(settings, directory, projector="mlp"):
    recipe = bench_recipe(settings, directory)
    recipe = replace(recipe, model=replace(recipe.model, projector=projector))
    if settings.cached:
        write_codebook(recipe, settings.preset)
    stage = make_stage(recipe, torch.float32)
    stage.codebook = Codebook(torch.randn(64, 160))
    return stage


def packs(stage, settings, count=2):
    return random_batches(pack_settings(stage, settings), stage.cost(), count)


def visible(batch):
    """(query, key) pairs that see each other, one token after the other."""
    ids = batch.segment_ids.tolist()
    return sum(
        ids[key] in (0, ids[query])
        for start, end in batch.groups
        for query in range(start, end)
        for key in range(start, query + 1)
    )


def attention(settings, batch):
    """A frozen tower runs once; elsewhere both sides of a product have gradients, which cost a product each."""
    tiles = len(batch.tiles)
    if settings.stage == "distill":
        return tiles * (3 * STUDENT_SCORES + (0 if settings.cached else TEACHER_SCORES))
    passes = 1 if settings.stage == "align" else 3
    return passes * tiles * STUDENT_SCORES + 3 * PAIR * visible(batch)


def matrix_products(stage, batch):
    stage.model.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as counter:
        stage.loss(stage.model, batch, CPU).total.backward()
    counted = counter.get_flop_counts()["Global"]
    assert {str(operation) for operation in counted} <= MATRIX_PRODUCTS
    return sum(counted.values())


@pytest.mark.parametrize("name", CASES)
def test_useful_flops_are_those_that_torch_counts_without_padding(name, tmp_path):
    settings = CASES[name]
    stage = make(settings, tmp_path)
    unfilled = packs(stage, replace(settings, padded=False))
    for batch, plain in zip(packs(stage, settings), unfilled, strict=True):
        assert (len(batch.input_ids) > len(plain.input_ids)) == settings.padded
        expected = matrix_products(stage, plain) + attention(settings, plain)
        assert useful_flops(stage, batch) == pytest.approx(expected, rel=1e-6)


def test_a_linear_projector_counts_its_one_matrix(tmp_path):
    stage = make(SETTINGS, tmp_path, projector="linear")
    (batch,) = packs(stage, SETTINGS, 1)
    expected = matrix_products(stage, batch) + attention(SETTINGS, batch)
    assert useful_flops(stage, batch) == pytest.approx(expected, rel=1e-6)
    assert stage.cost() == make(SETTINGS, tmp_path).cost(), "the order of packs stays"


@pytest.mark.parametrize("name", [name for name, settings in CASES.items() if not settings.padded])
def test_training_counts_the_same_on_packs_without_padding(name, tmp_path):
    stage = make(CASES[name], tmp_path)
    for batch in packs(stage, CASES[name]):
        assert stage.loss(stage.model, batch, CPU).flops.useful == useful_flops(stage, batch) > 0


def test_layers_that_run_again_and_dummy_tiles_are_of_no_use(tmp_path):
    settings = CASES["distill"]
    stage = make(settings, tmp_path)
    again = make(replace(settings, checkpointing=CheckpointingSection(vision="all")), tmp_path)
    (batch,) = packs(stage, settings, 1)
    assert useful_flops(again, batch) == useful_flops(stage, batch)
    assert useful_flops(stage, to_tensors(filler_pack(112, None))) == 0


@pytest.mark.parametrize("questions", [1, 32])
def test_a_pack_without_its_padding_is_the_one_that_was_never_filled_up(questions, tmp_path):
    settings = replace(SETTINGS, questions_per_visit=questions, padded=True)
    stage = make(settings, tmp_path)
    for filled, plain in zip(packs(stage, settings), packs(stage, replace(settings, padded=False)), strict=True):
        assert len(filled.input_ids) > len(plain.input_ids)
        stripped = without_padding(filled)
        assert (stripped.groups, stripped.meta) == (plain.groups, plain.meta)
        for field in fields(plain):
            got, wanted = getattr(stripped, field.name), getattr(plain, field.name)
            if isinstance(wanted, torch.Tensor) and field.name != "tiles":  # drawn with the words
                assert torch.equal(got, wanted), field.name
