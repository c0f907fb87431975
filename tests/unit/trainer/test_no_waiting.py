"""From the first layer to the end of the backward pass no operation runs for which a host would wait for its GPU."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.distill_heads import Codebook
from trainer.bench.packs import random_batches
from trainer.bench.settings import BenchSettings, bench_recipe, pack_settings
from trainer.recipe import CheckpointingSection
from trainer.stages import make_stage

READ_BACK = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "lift_fresh")
"""Names of operations whose result, or its shape, the host needs at once; `lift_fresh` makes a tensor of numbers, which
on a GPU is a copy that is waited for."""


class _Watch(TorchDispatchMode):
    """Notes operations of `READ_BACK`, and indexing by a mask, whose result has as many rows as it has places."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        self.count += 1
        if name.startswith(READ_BACK) or masked:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("checkpointed", [0, "all"])
@pytest.mark.parametrize("name", ["align", "finetune", "distill"])
def test_a_step_of_each_stage_reads_nothing_back(name, checkpointed):
    section = CheckpointingSection(vision=checkpointed, language=checkpointed if name != "distill" else 0)
    settings = BenchSettings(
        preset="tiny", stage=name, ds_config=Path("x"), tokens=700, tiles=26, checkpointing=section
    )
    stage = make_stage(bench_recipe(settings, Path("r")), torch.float32)
    stage.train_mode()
    if name == "distill":
        stage.codebook = Codebook(torch.randn(8, 160))
    (batch,) = random_batches(pack_settings(stage, settings), stage.cost(), 1)
    watch = _Watch()

    def forward(*args):
        with watch:
            return stage.model(*args)

    total = stage.loss(forward, batch, torch.device("cpu")).total
    with watch:
        total.backward()
    assert watch.count > 300, "hardly anything was watched"
    assert watch.seen == []
