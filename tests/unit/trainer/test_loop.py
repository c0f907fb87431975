"""What a step does with packs without weight."""

import pytest
import torch

from data_shards.collate import to_tensors
from data_shards.pack import filler_pack
from tests.helpers.stages import make_world, write_recipe
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.loop import train_step
from trainer.stages import make_stage
from trainer.stages.base import Preparation


class _Alone:
    """Stands for `Ranks` of a world of one."""

    def on_main(self, act):
        return act()


class _Engine:
    """Adds gradients up, and lets them be seen."""

    device = torch.device("cpu")

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, *arguments, **named):
        self.calls += 1
        return self.model(*arguments, **named)

    def backward(self, loss):
        loss.backward()

    def step(self):
        """Keep the gradients."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), frames=4)


def gradients(stage, batches, weight):
    stage.model.zero_grad(set_to_none=True)
    engine = _Engine(stage.model)
    outs = train_step(stage, engine, batches, weight=weight, world_size=2)
    assert engine.calls == len(batches)
    return {
        n: p.grad.clone() for n, p in stage.model.named_parameters() if p.requires_grad and p.grad is not None
    }, outs


@pytest.mark.parametrize("name", ["distill", "align"])
def test_a_filler_runs_through_the_model_and_teaches_nothing(world, name, tmp_path):
    recipe, _ = load_recipe(
        write_recipe(world, name, tmp_path / "run", data={"datasets": [{"path": str(world / "driving")}]})
    )
    stage = make_stage(recipe, torch.float32)
    data = make_data(recipe, stage.text, None)
    (tmp_path / "run").mkdir()
    stage.prepare(
        Preparation(
            ranks=_Alone(), device=torch.device("cpu"), run_dir=tmp_path / "run", first_batches=data.first_batches
        )
    )
    stage.model.eval()
    batch = next(data.first_batches())
    token = stage.text.tokenizer.convert_tokens_to_ids("<s>") if stage.text else None
    filler = to_tensors(filler_pack(recipe.data.view.tile_size, token))
    assert stage.weight(filler) == 0.0
    weight = stage.weight(batch)
    alone, (out,) = gradients(stage, [batch], weight)
    # two micro batches: the engine divides by their number
    both, outs = gradients(stage, [batch, filler], weight)
    assert float(outs[1].total) == 0.0
    assert outs[1].metrics == {}
    assert float(outs[0].total) == pytest.approx(float(out.total), rel=1e-6)
    assert set(both) == set(alone)
    assert any(grad.abs().max() > 0 for grad in alone.values())
    for parameter, grad in alone.items():
        torch.testing.assert_close(both[parameter], 2 * grad, rtol=1e-5, atol=1e-7)
    only, _ = gradients(stage, [filler], 0.0)
    assert set(only) == set(alone)
    assert all(grad.abs().max() == 0 for grad in only.values())
