"""FLOPs by part and pass add up to those that the loss needs; what is frozen has no backward pass of its own."""

from types import SimpleNamespace

import pytest
import torch

from trainer.bench.feed import make_feed
from trainer.bench.flop_shares import flop_shares, flops_by_part
from trainer.bench.parts import useful_flops
from trainer.bench.settings import BenchSettings, bench_recipe
from trainer.stages import make_stage

EVERY = {"forward", "backward"}
PASSES = {
    "align": {"vision": {"forward"}, "projector": EVERY, "language": EVERY},
    "finetune": {"vision": EVERY, "projector": EVERY, "language": EVERY},
}


def made(tmp_path, stage, **changes):
    own = BenchSettings(preset="tiny", stage=stage, ds_config=tmp_path, tokens=1000, tiles=39, **changes)
    stage = make_stage(bench_recipe(own, tmp_path), torch.float32, loaded=False)
    ranks = SimpleNamespace(rank=0, device=lambda: torch.device("cpu"))
    return stage, list(make_feed(stage, own, ranks).first_batches())


@pytest.mark.parametrize("stage", sorted(PASSES))
def test_parts_add_up_to_the_useful_flops(stage, tmp_path):
    own, batches = made(tmp_path, stage)
    for batch in batches:
        assert sum(flops_by_part(own, batch).values()) == pytest.approx(useful_flops(own, batch))
    names = {f"{part} {direction}" for part, directions in PASSES[stage].items() for direction in directions}
    shares = flop_shares(own, batches)
    assert set(shares) == names
    assert sum(shares.values()) == pytest.approx(1)


def test_a_stage_without_questions_has_none(tmp_path):
    assert flop_shares(*made(tmp_path, "distill")) == {}


def test_what_fills_a_pack_up_is_in_no_part(tmp_path):
    plain, padded = (made(tmp_path, "finetune", questions_per_visit=1, padded=padded) for padded in (False, True))
    assert flop_shares(*plain) == pytest.approx(flop_shares(*padded))


def test_a_trained_part_costs_two_forward_passes_more_and_a_frozen_language_model_one(tmp_path):
    trained, frozen = (flop_shares(*made(tmp_path, stage)) for stage in ("finetune", "align"))
    assert trained["vision backward"] == pytest.approx(2 * trained["vision forward"], rel=0.1)
    assert trained["vision backward"] < 2 * trained["vision forward"], "pixels get no gradient"
    ratio = frozen["language backward"] / frozen["language forward"]
    assert 1 < ratio < 1.5, "scores and values need gradients on both sides"
