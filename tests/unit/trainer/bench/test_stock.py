"""The stock baseline trains on the same questions as packs do, with the same loss, through nothing of ours."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from models.attention import PACK_ATTENTION
from models.packed_vlm import PackedVLM
from trainer.bench.feed import make_feed
from trainer.bench.fit import bench_stage, fitted
from trainer.bench.packs import useful_tokens
from trainer.bench.parts import useful_flops
from trainer.bench.settings import BenchSettings
from trainer.bench.stock import padded, stock_memory
from trainer.bench.weights import with_pattern
from trainer.checkpointing_section import CheckpointingSection
from trainer.memory import Zero

CPU = torch.device("cpu")
BF16 = {"zero_optimization": {"stage": 1}, "bf16": {"enabled": True}}
ALL = CheckpointingSection(vision="all", language="all")


def settings(path, **changes):
    given = {"preset": "tiny", "stage": "finetune", "tokens": 1000, "tiles": 39, "questions_per_visit": 1}
    return BenchSettings(ds_config=path, **given | changes)


def loaded(own):
    stage = with_pattern(bench_stage(own, {}, own.ds_config))
    stage.load()
    stage.train_mode()
    return stage


def packs(stage, own, count=2):
    feed = make_feed(stage, own, SimpleNamespace(rank=0, device=lambda: CPU))
    return list(feed.first_batches())[:count]


def plain_sum(stage, batch):
    """The sum over label tokens, each weighing one."""
    unweighted = replace(batch, label_weights=torch.ones_like(batch.label_weights))
    return stage.loss(stage.model, unweighted, CPU).total


@pytest.mark.parametrize("changes", [{"stage": "align"}, {"stage": "finetune"}, {"general": 0.5}], ids=str)
def test_the_loss_is_that_of_our_packs_filled_up_or_not(changes, tmp_path):
    ways = {
        "stock": settings(tmp_path, stock=True, **changes),
        "packs": settings(tmp_path, **changes),
        "padded": settings(tmp_path, padded=True, **changes),
    }
    sums = {}
    for name, own in ways.items():
        stage = loaded(own)
        sums[name] = [float(plain_sum(stage, batch).detach()) for batch in packs(stage, own)]
    assert min(sums["packs"]) > 1
    assert sums["stock"] == pytest.approx(sums["packs"], rel=1e-4)
    assert sums["stock"] == pytest.approx(sums["padded"], rel=1e-4)


def test_checkpointed_layers_run_again_and_gradients_stay_the_same(tmp_path):
    gradients, runs = [], []
    for layers in (CheckpointingSection(), ALL):
        own = settings(tmp_path, stock=True, checkpointing=layers)
        stage = loaded(own)
        seen = []
        for part in (*stage.vlm.model.vision_tower.encoder.layer, *stage.vlm.model.language_model.layers):
            part.mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        (batch,) = packs(stage, own, 1)
        stage.loss(stage.model, batch, CPU).total.backward()
        gradients.append([parameter.grad for parameter in stage.vlm.parameters()])
        runs.append(len(seen))
    assert runs == [8, 16]
    assert all(torch.allclose(one, two, atol=1e-6) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_the_model_is_stock_and_trains_what_the_stage_trains(stage, tmp_path):
    own, ours = (loaded(settings(tmp_path, stage=stage, stock=stock)) for stock in (True, False))
    assert not any(isinstance(module, PackedVLM) for module in own.model.modules())
    assert not any("forward" in vars(module) for module in own.model.modules())
    attention = own.vlm.model.language_model.config._attn_implementation
    assert attention == own.vlm.model.vision_tower.config._attn_implementation == "sdpa" != PACK_ATTENTION
    assert all(module.training for module in own.model.modules())
    sizes = [
        {group.name: sum(parameter.numel() for parameter in group.parameters) for group in each.parameter_groups()}
        for each in (own, ours)
    ]
    assert sizes[0] == sizes[1]


def test_a_batch_is_padded_to_its_longest_and_its_work_is_that_of_padded_packs(tmp_path):
    own, filled = settings(tmp_path, stock=True), settings(tmp_path, padded=True)
    stage, ours = loaded(own), loaded(filled)
    for batch, full in zip(packs(stage, own), packs(ours, filled), strict=True):
        inputs = padded(batch)
        lengths = [end - start for start, end in batch.groups]
        assert inputs["input_ids"].shape == (len(lengths), max(lengths))
        assert inputs["attention_mask"].sum(dim=1).tolist() == lengths
        assert torch.equal(inputs["input_ids"].flatten(), full.input_ids)
        assert int((inputs["labels"] != -100).sum()) == len(batch.label_targets)
        assert useful_tokens(batch) == useful_tokens(full) == sum(lengths)
        assert useful_flops(stage, batch) == pytest.approx(useful_flops(ours, full))


def test_a_card_gets_none_or_all_of_the_layers_checkpointed(tmp_path):
    large = settings(tmp_path, stock=True, preset="drivlm-2b", tokens=16384, tiles=48)
    all_layers, said = fitted(replace(large, gpu_gib=78.1), BF16, 1, tmp_path)
    assert all_layers.checkpointing == CheckpointingSection(vision=24, language=24)
    assert "vision 24 of 24, language 24 of 24" in said
    none, _ = fitted(replace(large, gpu_gib=180.0), BF16, 1, tmp_path)
    assert none.checkpointing == CheckpointingSection()


def test_the_logits_of_all_tokens_count(tmp_path):
    large = settings(tmp_path, stock=True, preset="drivlm-2b", tokens=16384)
    stage = bench_stage(large, BF16, tmp_path)
    own = stock_memory(stage, Zero.of(BF16, 1), {"vision": 24, "language": 24})
    assert own.parts["activations: loss"] == 16384 * 92553 * (2 + 4)
    assert own.peak > 16384 * 92553 * (2 + 4 + 4 + 4)
