"""What a benchmark is fed with."""

from pathlib import Path
from types import SimpleNamespace

import torch

from trainer.bench.feed import make_feed
from trainer.bench.settings import BenchSettings, bench_recipe
from trainer.stages import make_stage


def feed(micro_batches):
    settings = BenchSettings(
        preset="tiny", stage="align", ds_config=Path("x"), tokens=400, tiles=13, micro_batches=micro_batches
    )
    stage = make_stage(bench_recipe(settings, Path("r")), torch.float32, loaded=False)
    ranks = SimpleNamespace(rank=0, device=lambda: torch.device("cpu"))
    return make_feed(stage, settings, ranks)


def test_a_step_has_as_many_packs_as_asked_for_and_all_packs_have_their_turn():
    made = feed(3)
    held = list(made.first_batches())
    steps = made.steps()
    taken = [batch for _ in range(8) for batch in next(steps)]
    assert len(taken) == 24
    assert [id(batch) for batch in taken[:16]] == [id(batch) for batch in held]
    assert [id(batch) for batch in taken[16:]] == [id(batch) for batch in held[:8]]


def test_packs_come_neither_by_their_number_of_questions_nor_in_another_order_each_time():
    one, same = (
        [[batch.meta.num_questions for batch in next(steps)] for _ in range(16)]
        for steps in (feed(1).steps(), feed(1).steps())
    )
    assert one == same
    assert one not in (sorted(one), sorted(one, reverse=True))
