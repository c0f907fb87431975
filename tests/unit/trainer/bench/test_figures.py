"""Figures of two steps with known seconds and packs, by hand."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.presets import vision_config
from models.vlm import build_vision
from trainer.bench import figures as module
from trainer.bench.figures import Taken, figures, spread
from trainer.bench.packs import random_batches
from trainer.bench.settings import BenchSettings, bench_recipe, pack_settings, write_codebook
from trainer.bench.timeline import Timeline
from trainer.memory import Memory
from trainer.stages import make_stage

CPU = torch.device("cpu")
RANKS = SimpleNamespace(world_size=4, device=lambda: CPU)
EXPECTED = Memory(parts={"weights": 3.0, "tiles": 4.0}, host=0.0)
SETTINGS = BenchSettings(preset="tiny", stage="distill", ds_config=Path("x"), tokens=1100, tiles=39, peak_tflops=5.0)
ALIGN = replace(SETTINGS, stage="align", questions_per_visit=1, padded=True)
MARKS = [
    [("begin", 10.0), ("data wait", 11.0), ("teacher forward", 13.0), ("student forward", 14.0)],
    [("begin", 20.0), ("data wait", 20.5), ("teacher forward", 23.5), ("student forward", 26.0)],
]
"""Steps of 4 and of 6 seconds."""


def make(settings, directory=Path("r")):
    recipe = bench_recipe(settings, directory)
    if settings.cached:
        write_codebook(recipe, settings.preset)
    return make_stage(recipe, torch.float32, loaded=False)


def packs(stage, settings):
    return random_batches(pack_settings(stage, settings), stage.cost(), 3)


def figures_of(stage, settings):
    timeline = Timeline(CPU)
    timeline.steps, timeline.beside = MARKS, [[(1.0, 1.25), (2.0, 2.5)], [(5.0, 5.125)]]
    taken = Taken(batches=packs(stage, settings), timeline=timeline, wall=12.5, note="by hand")
    return figures(settings, stage, taken, EXPECTED, RANKS)


def test_rates_count_what_is_in_the_packs_without_padding():
    stage = make(ALIGN)
    found = figures_of(stage, ALIGN)
    filled, plain = packs(stage, ALIGN), packs(stage, replace(ALIGN, padded=False))
    tokens = sum(end for batch in plain for _, end in batch.groups[-1:])
    assert tokens < sum(len(batch.input_ids) for batch in filled)
    assert found["tokens_per_s"] == tokens / 10
    assert found["tiles_per_s"] == sum(len(batch.tiles) for batch in filled) / 10
    assert found["questions_per_s"] == sum(len(batch.groups) for batch in filled) / 10  # one each
    assert found["questions_per_s"] > 0.3


def test_useful_mfu_is_flops_over_the_seconds_of_all_steps_and_the_peak(monkeypatch):
    flops = iter([1e12, 2e12, 7e12])
    monkeypatch.setattr(module, "useful_flops", lambda stage, batch: next(flops))
    found = figures_of(make(ALIGN), ALIGN)
    assert found["useful_tflops"] == pytest.approx(1.0)
    assert found["peak_tflops"] == 5.0
    assert found["useful_mfu"] == pytest.approx(0.2)
    assert found["teacher_mfu"] is None


def test_the_teachers_mfu_is_of_its_forward_passes_alone():
    stage = make(SETTINGS)
    teacher = build_vision(vision_config("tiny-teacher"), torch.Generator().manual_seed(0)).eval()
    teacher.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        teacher(torch.zeros(1, 3, 112, 112))
    tiles = sum(len(batch.tiles) for batch in packs(stage, SETTINGS))
    assert tiles == 3 * 39
    expected = tiles * counter.get_total_flops() / (2 + 3) / 5e12
    assert figures_of(stage, SETTINGS)["teacher_mfu"] == pytest.approx(expected, rel=1e-6)


def test_a_cached_teacher_has_no_mfu(tmp_path):
    settings = replace(SETTINGS, cached=True)
    assert figures_of(make(settings, tmp_path), settings)["teacher_mfu"] is None


def test_without_a_peak_there_is_no_mfu():
    settings = replace(SETTINGS, peak_tflops=None)
    found = figures_of(make(settings), settings)
    assert (found["peak_tflops"], found["useful_mfu"], found["teacher_mfu"]) == (None, None, None)
    assert found["useful_tflops"] > 0


def test_times_are_those_of_the_marks():
    found = figures_of(make(SETTINGS), SETTINGS)
    assert list(found["seconds"]) == ["data wait", "teacher forward", "student forward", "step"]
    assert found["seconds"]["teacher forward"] == {"median": 2.5, "p10": 2.0, "p90": 3.0}
    assert found["seconds"]["step"] == {"median": 5.0, "p10": 4.0, "p90": 6.0}
    assert found["median_step_seconds"] == 5.0
    assert found["shares"] == {"data wait": 0.15, "teacher forward": 0.5, "student forward": 0.35}
    assert found["wall_seconds_a_step"] == 6.25
    assert found["unaccounted"] == pytest.approx(0.2)
    assert found["communication_beside_seconds"] == {"median": 0.4375, "p10": 0.125, "p90": 0.75}


def test_memory_and_circumstances_are_said():
    found = figures_of(make(SETTINGS), SETTINGS)
    assert found["memory"].pop("estimated") == {"weights": 3.0, "tiles": 4.0, "peak": 7.0}
    assert set(found["memory"]) == {"measured_by_torch", "measured_outside", "measured_peak"}
    assert set(found["memory"].values()) == {None}
    assert (found["device"], found["world_size"], found["data"]) == ("cpu", 4, "by hand")
    assert found["settings"]["tiles"] == "39"


def test_a_spread_is_the_median_and_the_ends_of_the_middle_eight_tenths():
    assert spread([float(value) for value in (9, 2, 7, 0, 5, 10, 3, 8, 1, 6, 4)]) == {
        "median": 5.0,
        "p10": 1.0,
        "p90": 9.0,
    }
