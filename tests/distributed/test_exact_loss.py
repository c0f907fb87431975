"""The gradient of two ranks with three micro batches each is that of one process over everything."""

from pathlib import Path

import pytest
import torch

from tests.helpers.dist import on_ranks
from tests.helpers.stages import write_recipe
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.ds_config import load_ds_config, resolve
from trainer.engine import Engine
from trainer.loop import train_step
from trainer.stages import make_stage

pytestmark = pytest.mark.distributed


def _recipe(world: Path, loss_weight: str) -> Path:
    changes = {"model": {"vlm": None, "vision": "tiny-student", "language": str(world / "language")}}
    return write_recipe(
        world,
        "align",
        world / f"exact-{loss_weight}",
        batch={"micro_batches": 3},
        loss_weight=loss_weight,
        data={"datasets": [{"path": str(world / "driving")}, {"path": str(world / "general")}], "max_tokens": 400},
        optim={"lr": 0.0, "grad_clip": 0.0},
        **changes,
    )


def _check(ranks, path: Path) -> None:
    recipe, _ = load_recipe(path)
    config_path = Path(__file__).parents[2] / "ds_configs" / "cpu_zero3.json"
    config = resolve(load_ds_config(config_path), recipe, world_size=2, config_path=config_path, recipe_path=path)
    stage = make_stage(recipe, torch.float32)
    data = make_data(recipe, stage.text, ranks)
    batches = next(iter(data.loader(ranks, 0)))
    packs = [batch for batch, _ in zip(data.first_batches(), range(6), strict=False)]
    weights = [stage.weight(batch) for batch in packs]
    assert max(weights) > 1.5 * min(weights), "label counts are too equal to show a wrong mean"
    total = sum(stage.loss(stage.model, batch, torch.device("cpu")).total for batch in packs) / sum(weights)
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(total, trained)
    norm = torch.stack([g.norm() for g in expected]).norm()
    engine = Engine(stage.model, stage.parameter_groups(), config)
    weight = ranks.sum([sum(map(stage.weight, batches))])[0]
    assert weight == pytest.approx(sum(weights), rel=1e-12)
    outs = train_step(stage, engine, batches, weight=weight, world_size=2)
    loss = ranks.sum([float(sum(out.total.double() for out in outs))])[0] / weight
    assert loss == pytest.approx(float(total), rel=1e-6)
    assert engine.grad_norm() == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("loss_weight", ["token", "sample", "square"])
def test_loss_and_gradient_are_the_exact_global_mean(world, loss_weight):
    on_ranks(_check, _recipe(world, loss_weight))
