"""Loss and gradients of two ranks with three micro batches each are those of one process over everything."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deepspeed.utils import safe_get_full_grad

from data_shards.collate import Batch
from tests.helpers.dist import CPU_ZERO3, on_ranks
from tests.helpers.stages import write_recipe
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.ds_config import load_ds_config, resolve
from trainer.engine import Engine
from trainer.loop import train_step
from trainer.stages import make_stage

pytestmark = pytest.mark.distributed

LABELS = {
    "very unequal": (400, 1, 9, 0, 2, 60),
    "none on the second rank": (400, 0, 3, 0, 50, 0),
}
"""Label tokens kept of each of the six packs at most; rank r has the packs r, r + 2 and r + 4."""


class _SeenEngine(Engine):
    """Keeps the whole gradients that an update is about to use."""

    gradients: list[torch.Tensor]

    def step(self) -> None:
        if self._engine.is_gradient_accumulation_boundary():
            self.gradients = [safe_get_full_grad(p).clone() for p in self.module.parameters()]
        super().step()


def _with_labels(batch: Batch, count: int) -> Batch:
    names = ("label_positions", "label_targets", "label_weights", "label_questions")
    return replace(batch, **{name: getattr(batch, name)[:count] for name in names})


def _check(ranks, path: Path, loss_weight: str, labels: tuple[int, ...]) -> None:
    recipe, _ = load_recipe(path, [f"loss_weight={loss_weight}"])
    config = resolve(load_ds_config(CPU_ZERO3), recipe, world_size=2, config_path=CPU_ZERO3, recipe_path=path)
    stage = make_stage(recipe, torch.float32)
    data = make_data(recipe, stage.text, ranks)
    packs = [_with_labels(b, n) for b, n in zip(data.first_batches(), labels, strict=False)]
    weights = [stage.weight(batch) for batch in packs]
    assert max(weights) > 5 * sorted(weights)[2], "weights are too equal to show a wrong mean"
    total = sum(stage.loss(stage.model, batch, torch.device("cpu")).total for batch in packs) / sum(weights)
    expected = torch.autograd.grad(total, list(stage.model.parameters()), allow_unused=True)
    engine = _SeenEngine(stage.model, stage.parameter_groups(), config)
    own = packs[ranks.rank :: 2]
    weight = ranks.sum([sum(map(stage.weight, own))])[0]
    assert weight == pytest.approx(sum(weights), rel=1e-12)
    outs = train_step(stage, engine, own, weight=weight, world_size=2)
    loss = ranks.sum([float(sum(out.total.double() for out in outs))])[0] / weight
    assert loss == pytest.approx(float(total), rel=1e-6)
    pairs = [
        (got, torch.zeros_like(got) if right is None else right)
        for got, right in zip(engine.gradients, expected, strict=True)
    ]
    norm = torch.stack([right.double().norm() for _, right in pairs]).norm()
    apart = torch.stack([(got.double() - right.double()).norm() for got, right in pairs]).norm()
    assert norm > 0
    assert apart <= 1e-6 * norm, float(apart / norm)


def _check_all(ranks, path: Path) -> None:
    for loss_weight in ("token", "sample", "square"):
        for labels in LABELS.values():
            _check(ranks, path, loss_weight, labels)


def test_loss_and_gradients_are_the_exact_global_mean_for_every_weight(world):
    path = write_recipe(
        world,
        "finetune",
        world / "exact",
        model={"vlm": "tiny-vlm", "tokenizer": str(world / "tokenizer")},
        batch={"micro_batches": 3},
        data={"datasets": [{"path": str(world / "driving")}, {"path": str(world / "general")}], "max_tokens": 400},
        optim={"lr": 0.0, "grad_clip": 0.0},
    )
    on_ranks(_check_all, path)
