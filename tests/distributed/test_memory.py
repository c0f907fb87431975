"""The estimated state of model and optimiser against the tensors that a real engine holds after a step."""

import gc
from pathlib import Path

import pytest
import torch

from tests.helpers.dist import CPU_ZERO3, on_fresh_ranks
from trainer.bench.packs import random_batches
from trainer.bench.settings import BenchSettings, bench_recipe, pack_settings
from trainer.ds_config import load_ds_config, resolve, zero_stage
from trainer.engine import Engine
from trainer.engine_partition import Partition
from trainer.footprint import footprint
from trainer.loop import train_step
from trainer.memory import Zero, model_state
from trainer.stages import make_stage

pytestmark = pytest.mark.distributed


def _storages() -> dict[int, int]:
    """Bytes of every storage that a tensor in this process uses, by place."""
    gc.collect()
    found = {}
    for held in gc.get_objects():
        if issubclass(type(held), torch.Tensor) and held.device.type == "cpu" and held.layout == torch.strided:
            for tensor in (held, held.grad if held.is_leaf else None, getattr(held, "ds_tensor", None)):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return found


def _state_bytes(ranks, zero: int, name: str) -> tuple[float, float]:
    """Bytes held after a step beyond those before, and those estimated: under ZeRO-1 and 2 gradients are gone then."""
    settings = BenchSettings(preset="tiny", stage=name, ds_config=CPU_ZERO3, tokens=600, tiles=13)
    recipe = bench_recipe(settings, Path("r"))
    config = load_ds_config(CPU_ZERO3)
    config["zero_optimization"] |= {"stage": zero, "reduce_bucket_size": 300_000}
    config = resolve(config, recipe, world_size=2, config_path=CPU_ZERO3, recipe_path=Path("r"))
    before = _storages()
    stage = make_stage(recipe, torch.float32, loaded=False)
    size = footprint(stage, max_tokens=600, max_tiles=13, divided=zero == 3)
    groups = stage.parameter_groups()
    stage.load(Partition(config, ranks) if zero_stage(config) == 3 else None)
    engine = Engine(stage.model, groups, config)
    stage.train_mode()
    (batch,) = random_batches(pack_settings(stage, settings), stage.cost(), 1)
    train_step(stage, engine, [batch], weight=2 * stage.weight(batch), world_size=2)
    del batch
    held = sum(size for place, size in _storages().items() if place not in before)
    parts, _ = model_state(size, Zero.of(config, 2))
    lasting = ["weights", "optimiser", *(["gradients", "reduction buckets"] if zero == 3 else [])]
    return held, sum(parts[part] for part in lasting)


def _check(ranks) -> None:
    found = {(zero, name): _state_bytes(ranks, zero, name) for zero in (1, 2, 3) for name in ("finetune", "align")}
    for (zero, name), (held, estimated) in found.items():
        assert 0.85 * held <= estimated <= 1.05 * held, (zero, name, held, estimated)


def test_state_is_what_was_estimated_for_every_zero_stage():
    on_fresh_ranks(_check)
