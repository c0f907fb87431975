"""Distillation on two ranks under ZeRO-3: whole and partitioned frozen parts, and students of cached targets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.dist import CPU_ZERO3, losses, on_ranks
from tests.helpers.forked import train
from tests.helpers.paths import ROOT
from tests.helpers.stages import make_teacher_vlm, write_recipe
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.dist import Ranks
from trainer.ds_config import load_ds_config, resolve
from trainer.engine import Engine
from trainer.engine_partition import Partition
from trainer.loop import train_step
from trainer.stages import make_stage
from trainer.stages.base import Preparation

pytestmark = pytest.mark.distributed

TERMS = {"codebook_size": 32, "codebook_tiles": 26, "last_k": 2, "answer_logits": 1.0}


def _answering(world: Path, placement: str) -> dict[int, float]:
    """Losses of two steps with all three terms."""
    model = {"teacher": None, "teacher_vlm": str(make_teacher_vlm(world))}
    run_dir = world / f"answers-{placement}"
    distill = {**TERMS, "teacher_placement": placement}
    train(["--recipe", str(write_recipe(world, "distill", run_dir, steps=2, model=model, distill=distill))])
    metrics = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    assert {"loss/features", "loss/patch_logits", "loss/answer_logits", "accuracy/teacher_tokens"} <= metrics.keys()
    parts = (metrics[f"loss/{name}"] for name in ("features", "patch_logits", "answer_logits"))
    assert metrics["loss/total"] == pytest.approx(sum(parts), rel=1e-6)
    return losses(run_dir)


def test_partitioned_and_whole_frozen_parts_teach_alike(world):
    whole, divided = _answering(world, "replicate"), _answering(world, "partition")
    assert len(whole) == 2
    for step, loss in whole.items():
        assert divided[step] == pytest.approx(loss, rel=1e-5)


def _frozen_parts_are_only_asked(ranks: Ranks, path: Path) -> None:
    recipe, _ = load_recipe(path)
    config = resolve(load_ds_config(CPU_ZERO3), recipe, world_size=2, config_path=CPU_ZERO3, recipe_path=path)
    stage = make_stage(recipe, torch.float32, loaded=False)
    data = make_data(recipe, stage.text, ranks, stage.cost())
    groups = stage.parameter_groups()
    num_trained = sum(parameter.numel() for group in groups for parameter in group.parameters)
    stage.load(Partition(config, ranks))
    engine = Engine(stage.model, groups, config)
    stage.prepare(
        Preparation(ranks=ranks, device=engine.device, run_dir=recipe.run_dir, first_batches=data.first_batches)
    )
    stage.train_mode()
    batches = next(iter(data.loader(ranks, 0)))
    own = [sum(map(stage.weight, batches)), sum(map(stage.second_weight, batches))]
    weight, second_weight = ranks.sum(own)
    train_step(stage, engine, batches, weight=weight, second_weight=second_weight, world_size=2)
    for part in (stage.teacher, stage.answers.head.module):
        assert not any(module.training for module in part.modules())
        for name, parameter in part.named_parameters():
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name
            assert parameter.numel() == 0, f"{name} is whole on this rank"
            assert parameter.ds_tensor.numel() > 0, name
    states = engine._engine.optimizer.optimizer.state.values()
    (moments,) = ranks.sum([sum(state["exp_avg"].numel() for state in states)])
    assert num_trained <= moments < 1.02 * num_trained


def test_partitioned_frozen_parts_have_no_gradient_no_optimiser_state_and_stay_in_evaluation(world):
    run_dir = world / "only-asked"
    run_dir.mkdir()
    model = {"teacher": None, "teacher_vlm": str(make_teacher_vlm(world)), "drop_path": 0.1}
    distill = {**TERMS, "teacher_placement": "partition"}
    on_ranks(_frozen_parts_are_only_asked, write_recipe(world, "distill", run_dir, model=model, distill=distill))


def test_a_student_of_cached_targets_needs_no_teacher_and_quarantines_their_damage(world):
    run_dir = world / "cached"
    path = write_recipe(world, "distill", run_dir, steps=2, data={"workers": 1}, distill={"top_k": 8})
    tree = yaml.safe_load(path.read_text())
    tree["distill"]["codebook"] = str(world / "cached-codebook.safetensors")
    tree["data"]["datasets"] = [{"path": str(world / "driving"), "targets": str(world / "cached-targets")}]
    tree["data"]["max_bad_fraction"] = 0.5
    path.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "data_shards", "teacher-targets", "--recipe", str(path)]
    for more in (["--fit-codebook"], []):
        done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout
    tar = world / "cached-targets" / "shard-000000.tar"
    content = bytearray(tar.read_bytes())
    content[content.index(b"\x93NUMPY") + 200] ^= 1
    tar.write_bytes(content)
    output = train(["--recipe", str(path), "model.teacher=null"])
    assert "the teacher is not loaded" in output
    assert len(losses(run_dir)) == 2
    records = [json.loads(line) for line in (run_dir / "quarantine.jsonl").read_text().splitlines()]
    assert [record["reason"][:16] for record in records] == ["teacher targets:"]
