"""What a benchmark is fed with says where it comes from."""

from types import SimpleNamespace

import pytest
import torch

from trainer.bench.feed import make_feed
from trainer.bench.settings import BenchSettings, bench_recipe
from trainer.stages import make_stage


@pytest.mark.parametrize(("tiles", "cut"), [(2, True), (13, False)])
def test_frames_that_are_cut_are_said_to_be(tiles, cut, tmp_path):
    settings = BenchSettings(preset="tiny", stage="align", ds_config=tmp_path, tokens=600, tiles=tiles)
    stage = make_stage(bench_recipe(settings, tmp_path), torch.float32, loaded=False)
    ranks = SimpleNamespace(rank=0, device=lambda: torch.device("cpu"))
    assert ("frames of 13 tiles are cut to the 2 of a pack" in make_feed(stage, settings, ranks).note) == cut
