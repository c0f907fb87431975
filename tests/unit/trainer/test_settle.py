"""Checkpointed layers that a recipe leaves open are chosen for a card."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer.bench.settings import BenchSettings, bench_recipe
from trainer.checkpointing_section import CheckpointingSection
from trainer.memory import GIB, Zero
from trainer.memory_fit import memory_of
from trainer.settle import settle_checkpointing
from trainer.stages import make_stage
from trainer.stages.sources import StageError

CONFIG = {"zero_optimization": {"stage": 3, "reduce_bucket_size": 1000}}


def recipe_with(**checkpointing):
    settings = BenchSettings(preset="tiny", stage="finetune", ds_config=Path("x"), tokens=600, tiles=26)
    recipe = bench_recipe(settings, Path("r"))
    return replace(recipe, model=replace(recipe.model, checkpointing=CheckpointingSection(**checkpointing)))


def peak(recipe):
    return memory_of(make_stage(recipe, torch.float32, loaded=False), Zero.of(CONFIG, 1)).peak / GIB


def test_numbers_stay_and_nothing_is_said():
    recipe = recipe_with(vision=1, language="all")
    assert settle_checkpointing(recipe, CONFIG, 1) == (recipe, [])


def test_as_few_layers_as_fit_are_chosen():
    most = peak(recipe_with())
    recipe = recipe_with(vision="auto", language="auto", gpu_gib=most)
    settled, (note,) = settle_checkpointing(recipe, CONFIG, 1)
    assert (settled.model.checkpointing.vision, settled.model.checkpointing.language) == (0, 0)
    assert f"chosen for {most:g} GiB: vision 0 of 4, language 0 of 4" in note
    less, _ = settle_checkpointing(recipe, CONFIG, 1, gpu_gib=most - 0.01)
    counts = less.model.checkpointing
    assert 0 < counts.vision + counts.language < 8
    assert peak(less) <= most - 0.01
    one_less = "vision" if counts.vision else "language"
    fewer = recipe_with(
        **{"vision": counts.vision, "language": counts.language, one_less: getattr(counts, one_less) - 1}
    )
    assert peak(fewer) > most - 0.01


def test_a_number_that_is_given_stays_where_the_other_is_chosen():
    most = peak(recipe_with(vision=3))
    settled, _ = settle_checkpointing(recipe_with(vision=3, language="auto", gpu_gib=most - 0.005), CONFIG, 1)
    assert settled.model.checkpointing.vision == 3
    assert settled.model.checkpointing.language > 0


def test_a_card_that_is_not_known_or_too_small_is_an_error():
    with pytest.raises(StageError, match=r"checkpointing.vision: got auto, but there is no GPU here"):
        settle_checkpointing(recipe_with(vision="auto"), CONFIG, 1)
    with pytest.raises(StageError, match="got auto for language in 1 GiB, too little"):
        settle_checkpointing(recipe_with(language="auto", gpu_gib=1.0), CONFIG, 1)
