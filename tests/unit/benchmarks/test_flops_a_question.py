"""FLOPs of a question and of a tile, at tiny size."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.flops_a_question import cost
from trainer.bench.settings import BenchSettings

SETTINGS = BenchSettings(preset="tiny", stage="finetune", ds_config=Path("x"), tokens=1000, tiles=39)


def test_a_shared_prefix_makes_questions_cheaper_and_a_pack_keeps_its_limits():
    classic, shared = (cost(replace(SETTINGS, questions_per_visit=visit), 4) for visit in (1, 8))
    for found in (classic, shared):
        assert 0 < found.labels < found.tokens <= 1000
        assert found.tiles <= 39
    assert shared.questions > classic.questions
    assert shared.a_question < 0.7 * classic.a_question
    assert classic.a_question == pytest.approx(classic.tflops / classic.questions)


def test_cached_targets_make_tiles_cheaper():
    online, cached = (cost(replace(SETTINGS, stage="distill", tiles=13, cached=cached), 2) for cached in (False, True))
    assert online.questions == cached.questions == 0
    assert cached.a_tile < online.a_tile
