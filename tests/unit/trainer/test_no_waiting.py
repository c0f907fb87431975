"""From the first layer to the end of the backward pass no operation runs for which a host would wait for its GPU."""

from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
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


class _Copies(TorchFunctionMode):
    """Notes type and `non_blocking` of what is copied to the device called meta, which stands for a GPU here."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, bool]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.to and "meta" in map(str, args[1:]):
            self.seen.append((args[0].dtype, kwargs.get("non_blocking", False)))
        return func(*args, **kwargs)


class _Arrived(Exception):  # noqa: N818
    """Carries what a model was called with."""


@pytest.mark.parametrize("name", ["align", "finetune", "distill"])
def test_tiles_cross_as_bytes_without_a_wait_and_are_normalised_on_the_device(name, monkeypatch):
    settings = BenchSettings(preset="tiny", stage=name, ds_config=Path("x"), tokens=700, tiles=26)
    stage = make_stage(bench_recipe(settings, Path("r")), torch.float32)
    if name == "distill":
        monkeypatch.setattr(stage, "_states", lambda pixels, targets: ())
    (batch,) = random_batches(pack_settings(stage, settings), stage.cost(), 1)
    assert batch.tiles.dtype == torch.uint8

    def forward(*args):
        raise _Arrived(*args)

    with _Copies() as copies, pytest.raises(_Arrived) as arrived:
        stage.loss(forward, batch, torch.device("meta"))
    pixels = next(arg for arg in arrived.value.args if getattr(arg, "ndim", 0) == 4)
    assert pixels.device.type == "meta"
    assert pixels.dtype == torch.float32
    assert tuple(pixels.shape) == (len(batch.tiles), 3, 112, 112)
    assert torch.uint8 in {dtype for dtype, _ in copies.seen}
    assert all(without_a_wait for _, without_a_wait in copies.seen)


def test_the_frozen_tower_sees_each_frame_once_for_all_its_questions_and_keeps_nothing():
    settings = BenchSettings(preset="tiny", stage="align", ds_config=Path("x"), tokens=3000, tiles=26)
    stage = make_stage(bench_recipe(settings, Path("r")), torch.float32)
    stage.train_mode()
    (batch,) = random_batches(pack_settings(stage, settings), stage.cost(), 1)
    assert batch.meta.num_questions > 4 * batch.meta.num_samples
    outputs = []
    tower = stage.vlm.model.vision_tower
    tower.register_forward_hook(lambda module, args, output: outputs.append(output.last_hidden_state))
    total = stage.loss(stage.model, batch, torch.device("cpu")).total
    assert total.requires_grad
    assert [len(states) for states in outputs] == [batch.meta.num_tiles]
    assert batch.meta.num_tiles == 13 * batch.meta.num_samples
    assert not outputs[0].requires_grad
    assert outputs[0].grad_fn is None
