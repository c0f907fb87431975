"""Under ZeRO-3 a step with checkpointed activations gives the same weights as one without, to the bit."""

from pathlib import Path

import pytest
import torch

from tests.helpers.dist import CPU_ZERO3, on_ranks
from tests.helpers.stages import write_recipe
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.ds_config import load_ds_config, resolve
from trainer.engine import Engine
from trainer.engine_partition import Partition, parameters_everywhere
from trainer.loop import train_step
from trainer.stages import make_stage

pytestmark = pytest.mark.distributed


def _after_a_step(ranks, path: Path, overrides: list[str], *, leaves: bool) -> tuple[dict[str, torch.Tensor], int]:
    """All weights, and how often the MLPs of layers ran."""
    recipe, _ = load_recipe(path, overrides)
    config = resolve(load_ds_config(CPU_ZERO3), recipe, world_size=2, config_path=CPU_ZERO3, recipe_path=path)
    if not leaves:
        del config["zero_optimization"]["leaf_module"]
    stage = make_stage(recipe, torch.float32, loaded=False)
    runs = []
    for layer in [*stage.layers()["vision"], *stage.layers()["language"]]:
        layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    groups = stage.parameter_groups()
    stage.load(Partition(config, ranks))
    engine = Engine(stage.model, groups, config)
    stage.train_mode()
    batches = next(iter(make_data(recipe, stage.text, ranks).loader(ranks, 0)))
    weight = ranks.sum([sum(map(stage.weight, batches))])[0]
    torch.manual_seed(11 + ranks.rank)
    train_step(stage, engine, batches, weight=weight, world_size=2)
    names = [name for name, _ in stage.model.named_parameters()]
    return dict(zip(names, (value.clone() for value in parameters_everywhere(stage.model)), strict=True)), len(runs)


def _check(ranks, path: Path) -> None:
    checkpointing = ["model.checkpointing={vision: 3, language: all}"]
    start = dict(make_stage(load_recipe(path)[0], torch.float32).model.named_parameters())
    frozen = {name for name in start if ".encoder.layer.0." in name or ".language_model.layers.1." in name}
    assert frozen
    for leaves in (True, False):
        plain, runs = _after_a_step(ranks, path, [], leaves=leaves)
        moved = {name for name, value in start.items() if not torch.equal(value, plain[name])}
        assert not moved & frozen, "a frozen parameter moved"
        assert len(moved) > 0.9 * (len(start) - len(frozen)), "most did not move: there is nothing to compare"
        again, more = _after_a_step(ranks, path, checkpointing, leaves=leaves)
        assert more == runs + 2 * (2 + 4), (
            "of three layers of the tower one is frozen, and nothing before it is trained"
        )
        for name, value in plain.items():
            assert torch.equal(again[name], value), (leaves, name)


def test_a_step_gives_the_same_weights_with_frozen_parts_and_drop_path(world):
    path = write_recipe(
        world,
        "finetune",
        world / "checkpointed",
        model={
            "vlm": "tiny-vlm",
            "tokenizer": str(world / "tokenizer"),
            "drop_path": 0.4,
            "freeze": ["*vision_tower.embeddings.*", "*vision_tower.encoder.layer.0.*", "*language_model.layers.1.*"],
        },
        batch={"micro_batches": 2},
        optim={"lr": 1e-2, "warmup": 0},
    )
    on_ranks(_check, path)
