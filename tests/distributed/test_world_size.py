"""A checkpoint goes on at any number of ranks under ZeRO 0 to 3, also another stage in another precision than its own:
weights, moments, Adam's steps, rates and decay."""

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.dist import on_ranks
from trainer.checkpoint import Checkpoints
from trainer.engine import Engine
from trainer.optim import ParamGroup
from trainer.resume import StoredCheckpoints
from trainer.state import TrainState

pytestmark = pytest.mark.distributed

KINDS = ((0, False), (1, False), (1, True), (2, False), (3, False), (3, True))
"""ZeRO stage, and whether in bf16."""
GROUPS = (("first", 1e-2, 0.1), ("second", 3e-3, 0.0), ("third", 1e-4, 0.3))
Dump = dict[str, torch.Tensor]


def make_engine(stage: int, bf16: bool, world: int) -> Engine:
    """A frozen layer and three groups, of sizes that no number of ranks divides, in several sub-groups."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    groups = [
        ParamGroup(name=name, module=name, lr=lr, weight_decay=decay, parameters=tuple(model[i].parameters()))
        for i, (name, lr, decay) in zip((1, 3, 4), GROUPS, strict=True)
    ]
    zero = {"stage": stage, "sub_group_size": 40, "stage3_param_persistence_threshold": 4}
    config = {
        "train_batch_size": world,
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": bf16},
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True, "lr": 1e-2}},
        "zero_optimization": zero if stage else {"stage": 0},
    }
    return Engine(model, groups, config)


def train(engine: Engine, steps: range) -> None:
    """The same inputs on all ranks, so that the mean gradient is that of one rank."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(4, 5, generator=generator).to(next(engine.module.parameters()).dtype)
        engine.backward(engine(x).float().square().mean())
        engine.step()


def dump(engine: Engine) -> Dump:
    """Every weight and moment, whole, through DeepSpeed's own accessors."""
    utils = importlib.import_module("deepspeed.utils")
    if hasattr(engine._engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        # DeepSpeed links its accessors of ZeRO 1 and 2 after the step of the first group, when the others have no state
        engine._engine.optimizer._hp_optimizer_states_linked = False
        engine._engine.optimizer._lazy_init_hp_params_optimizer_state()
    whole: Dump = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
            whole[f"{name} fp32"] = utils.safe_get_full_fp32_param(parameter)
            for key in ("exp_avg", "exp_avg_sq"):
                whole[f"{name} {key}"] = utils.safe_get_full_optimizer_state(parameter, key)
        else:
            state = engine._engine.optimizer.state[parameter]
            whole |= {f"{name} fp32": parameter.detach(), **{f"{name} {k}": v for k, v in state.items() if k != "step"}}
    for name, parameter in engine.module.named_parameters():
        with importlib.import_module("deepspeed").zero.GatheredParameters([parameter]):
            whole[f"{name} model"] = parameter.detach().clone()
    return {name: value.clone() for name, value in whole.items()}


def adam_steps(engine: Engine) -> list[torch.Tensor]:
    optimizer = engine._engine.optimizer
    return [state["step"] for state in getattr(optimizer, "optimizer", optimizer).state.values()]


def part(ranks, root: Path, first: int, last: int) -> None:
    """Load what is there, compare it with what its writers saw, train on, save."""
    for stage, bf16 in KINDS:
        directory = root / f"zero{stage}-{bf16}"
        engine = make_engine(stage, bf16, ranks.world_size)
        stored = StoredCheckpoints(root=directory, ranks=ranks, say=lambda text: None)
        path = stored.find()
        assert (path is None) == (first == 0)
        if path is not None:
            assert stored.load(path, engine).step == first
            check_restored(engine, torch.load(root / f"zero{stage}-{bf16}.pt"), first)
        train(engine, range(first, last))
        assert {float(step) for step in adam_steps(engine)} == {float(last)}
        checkpoints = Checkpoints(root=directory, ranks=ranks, keep=2, recipe="", say=lambda text: None, newest=path)
        ranks.on_main(lambda directory=directory: directory.mkdir(exist_ok=True) or 0)
        checkpoints.save_now(engine, TrainState(step=last))
        whole = dump(engine)
        ranks.on_main(lambda whole=whole, stage=stage, bf16=bf16: torch.save(whole, root / f"zero{stage}-{bf16}.pt"))


def check_restored(engine: Engine, expected: Dump, step: int) -> None:
    steps = adam_steps(engine)
    assert {float(one) for one in steps} == {float(step)}
    assert len({one.data_ptr() for one in steps}) == len(steps), "each flat tensor counts its own steps"
    groups = engine._engine.optimizer.param_groups
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == list(GROUPS)
    got = dump(engine)
    assert set(got) == set(expected)
    assert sum("exp_avg" in name for name in got) == 12
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def test_one_rank_two_ranks_one_rank(tmp_path):
    on_ranks(part, tmp_path, 0, 3, world=1)
    on_ranks(part, tmp_path, 3, 5, world=2)
    on_ranks(part, tmp_path, 5, 6, world=1)


def goes_on_elsewhere(ranks, root: Path) -> None:
    """From ZeRO-3 in float32 to other stages, and to bfloat16."""
    writer = make_engine(3, False, 1)
    train(writer, range(2))
    expected = {name: value for name, value in dump(writer).items() if not name.endswith("model")}
    path = Checkpoints(root=root, ranks=ranks, keep=1, recipe="", say=print).save_now(writer, TrainState(step=2))
    for stage, bf16 in ((0, False), (1, True), (3, True)):
        said: list[str] = []
        engine = make_engine(stage, bf16, 1)
        StoredCheckpoints(root=root, ranks=ranks, say=said.append).load(path, engine)
        got = dump(engine)
        for name, value in expected.items():
            assert torch.equal(got[name], value), (stage, name)
        assert {float(step) for step in adam_steps(engine)} == {2.0}
        assert [line.partition(":")[0] for line in said] == [
            f"{path} was written in float32, and is continued in bfloat16" for _ in range(bf16)
        ]
        train(engine, range(2, 3))
        assert {float(step) for step in adam_steps(engine)} == {3.0}


def test_another_stage_goes_on_and_another_precision_is_told_of(tmp_path):
    on_ranks(goes_on_elsewhere, tmp_path, world=1)
