"""Two ranks, one of which has a loss that is not finite, sleeps, or fails: what both do then."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.helpers.dist import CPU_ZERO3, on_ranks
from tests.helpers.stages import write_recipe
from tests.helpers.waiting import wait_until
from trainer import job
from trainer.bad_samples import TooManyBadSamples
from trainer.config import load_recipe
from trainer.ds_config import load_ds_config
from trainer.engine import Engine
from trainer.engine_partition import parameters_everywhere
from trainer.guards import OutOfMemory, TooManySkipped
from trainer.optim import ParamGroup
from trainer.run_dir import RunDir
from trainer.state import TrainState
from trainer.watchdog import Watchdog

pytestmark = pytest.mark.distributed


class _Net(nn.ModuleDict):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__({"body": nn.Linear(6, 5), "head": nn.Linear(5, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self["head"](self["body"](x).tanh())


def _engine(stage: int, precision: str = "fp32", micro_batches: int = 2, **others) -> tuple[Engine, nn.Module]:
    model = _Net()
    groups = [
        ParamGroup(name=f"{name}/decay", module=name, lr=1e-2, weight_decay=0.1, parameters=tuple(part.parameters()))
        for name, part in model.items()
    ]
    config = load_ds_config(CPU_ZERO3)
    config |= {"train_batch_size": 2 * micro_batches, "train_micro_batch_size_per_gpu": 1}
    config |= {"gradient_accumulation_steps": micro_batches, **others}
    config["gradient_clipping"] = 1.0
    config["optimizer"]["params"] |= {"lr": 1e-2, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.1}
    config["zero_optimization"]["stage"] = stage
    if stage < 3:
        config["zero_optimization"] = {"stage": stage}
    if precision == "bf16":
        config["bf16"] = {"enabled": True}
        model.to(torch.bfloat16)
    return Engine(model, groups, config), model


def _step(engine: Engine, rank: int, number: int, factor: float = 1.0) -> dict[str, float]:
    """Two micro batches; `factor` spoils the second one of this rank."""
    for micro in range(2):
        generator = torch.Generator().manual_seed(100 * number + 10 * rank + micro)
        x = torch.randn(4, 6, generator=generator).to(engine.module["body"].weight.dtype)
        loss = engine(x).float().square().sum()
        engine.backward(loss * (factor if micro else 1.0))
        engine.step()
    return engine.grad_squares()


def _state(engine: Engine) -> list[torch.Tensor]:
    weights = [value.float() for value in parameters_everywhere(engine.module)]
    inner = getattr(engine._engine.optimizer, "optimizer", engine._engine.optimizer)
    states = [value for one in inner.state.values() for value in one.values() if isinstance(value, torch.Tensor)]
    return [tensor.clone() for tensor in (*weights, *states)]


def _equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def _skips(ranks, stage: int, precision: str) -> None:
    engine, _ = _engine(stage, precision)
    engine.set_lr(1.0)
    _step(engine, ranks.rank, 0)
    assert not engine.skipped
    before = _state(engine)
    assert len(before) > 6
    for factor in (float("nan"), float("inf")):
        _step(engine, ranks.rank, 1, factor if ranks.rank == 1 else 1.0)
        assert engine.skipped
        assert _equal(_state(engine), before), "a step that is skipped changes nothing, Adam's count neither"
    _step(engine, ranks.rank, 2)
    assert not engine.skipped
    after = _state(engine)
    assert not _equal(after, before)
    twin, _ = _engine(stage, precision)
    twin.set_lr(1.0)
    _step(twin, ranks.rank, 0)
    _step(twin, ranks.rank, 2)
    assert _equal(_state(twin), after), "and leaves nothing behind for the step after it"


def _skips_everywhere(ranks) -> None:
    for stage, precision in ((3, "fp32"), (3, "bf16"), (1, "fp32"), (0, "fp32")):
        _skips(ranks, stage, precision)


def test_a_loss_that_is_not_finite_on_one_rank_skips_the_step_on_both_under_every_zero_stage():
    on_ranks(_skips_everywhere)


def _norms(ranks, stage: int) -> None:
    engine, _ = _engine(stage)
    engine.set_lr(1.0)
    squares = _step(engine, ranks.rank, 0)
    assert set(squares) == {"body", "head"}
    total = {name: ranks.sum([value])[0] for name, value in squares.items()}
    model = _Net()
    for rank in range(2):
        for micro in range(2):
            generator = torch.Generator().manual_seed(10 * rank + micro)
            x = torch.randn(4, 6, generator=generator)
            (model(x).square().sum() / 4).backward()
    for name, part in model.items():
        expected = sum(float(p.grad.square().sum()) for p in part.parameters())
        assert total[name] == pytest.approx(expected, rel=1e-4), name


def _norms_everywhere(ranks) -> None:
    for stage in (0, 1, 2, 3):
        _norms(ranks, stage)


def _adds_up(ranks) -> None:
    """A pack of weight 1 and then 15 of a 1024th of it, which bfloat16 loses beside it."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    for stage, types in ((2, "fp32"), (3, "fp32"), (3, None)):
        norms = []
        for small in (0.0, 2.0**-10):
            others = {"data_types": {"grad_accum_dtype": types}} if types else {}
            engine, _ = _engine(stage, "bf16", micro_batches=16, **others)
            for micro in range(16):
                engine.backward(engine(x).float().square().sum() * (small if micro else 1.0))
                engine.step()
            squares = ranks.sum([sum(engine.grad_squares().values())])[0]
            norms.append(engine.grad_norm())
            assert squares**0.5 == pytest.approx(norms[-1], rel=1e-2)
        lost = 15 * 2.0**-10 if types is None else 0.0
        assert norms[1] / norms[0] == pytest.approx(1 + 15 * 2.0**-10 - lost, abs=2e-3), (stage, types)


def test_gradients_of_many_packs_are_added_up_in_float32_where_the_configuration_says_so():
    on_ranks(_adds_up)


def test_gradient_norms_by_module_are_those_of_one_process_under_every_zero_stage():
    on_ranks(_norms_everywhere)


def _hang(ranks, root) -> None:
    said = root / f"said_{ranks.rank}.json"
    ranks.barrier()
    with Watchdog(ranks, root, hang_after=1.0, say=lambda text: said.write_text(json.dumps(text))) as watchdog:
        watchdog.beat(7, "forward and backward passes")
        if ranks.rank == 1:
            _asleep(until=root / "said_0.json")
            assert watchdog.waited() == 0.0
        began = time.monotonic()
        ranks.barrier()
        if ranks.rank == 0:
            assert watchdog.waited() > 0.5 * (time.monotonic() - began)
        watchdog.beat(8, "waiting for data")
    ranks.barrier()


def _asleep(until: Path) -> None:
    wait_until(until.exists)
    time.sleep(2.0)  # the time that the others wait is only taken now and then


def test_a_rank_that_sleeps_is_named_and_all_ranks_leave_their_stacks(tmp_path):
    on_ranks(_hang, tmp_path)
    said = json.loads((tmp_path / "said_0.json").read_text())
    assert re.match(r"nothing has moved for \d+ s; rank 1 is behind", said)
    assert "rank 1: step 7, forward and backward passes, waits for no one" in said
    assert "rank 0: step 7, forward and backward passes, waits for others" in said
    assert not (tmp_path / "said_1.json").exists()
    assert "_asleep" in (tmp_path / "stacks" / "rank_1.txt").read_text()
    assert "barrier" in (tmp_path / "stacks" / "rank_0.txt").read_text()


def _leaves(ranks, root: Path, error: type[Exception]) -> Path:
    """Train until `error` comes while a checkpoint is being written; where that one is when it is whole."""
    recipe, _ = load_recipe(root / "leaving-distill.yaml", [f"run_dir={root / error.__name__}"])
    run_dir = RunDir(path=recipe.run_dir)
    ranks.on_main(run_dir.make)
    engine, _ = _engine(3)

    def fit(run, state):
        run.checkpoints.save(engine, TrainState(step=2))
        raise error

    job.fit = fit
    data = SimpleNamespace(
        loader=lambda *_: [],
        stream=SimpleNamespace(advance=None),
        num_samples=0,
        mixture=SimpleNamespace(bad=()),
    )
    parts = {"recipe": recipe, "run_dir": run_dir, "ranks": ranks, "data": data, "inputs": {}, "newest": None}
    with pytest.raises(error):
        job._train(job._Parts(**parts, stage=None, engine=engine, validator=None, stop=None), TrainState())
    ranks.barrier()
    return run_dir.checkpoints / "step-000002" / "manifest.txt"


def _leaves_each_way(ranks, root: Path) -> None:
    assert _leaves(ranks, root, TooManySkipped).is_file()
    assert _leaves(ranks, root, TooManyBadSamples).is_file()
    assert not _leaves(ranks, root, OutOfMemory).exists(), "it comes on one rank alone, which waits for no other"


def test_a_checkpoint_under_way_becomes_whole_where_all_ranks_give_up_together(tmp_path):
    write_recipe(tmp_path, "distill", tmp_path / "leaving")
    on_ranks(_leaves_each_way, tmp_path)
