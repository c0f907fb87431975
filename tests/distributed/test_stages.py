"""The three stages on two ranks under ZeRO-3, each from the former's output."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText, InternVLVisionModel

from data_shards.chat import IMAGE_TOKEN
from models.presets import vision_config
from models.vlm import build_vision, join_vlm, load_language, load_vision, load_vlm
from tests.helpers.dist import launch, losses
from tests.helpers.forked import train
from tests.helpers.stages import write_recipe
from trainer.stages.sources import tokenizer_from

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def distilled(world: Path) -> Path:
    run_dir = world / "distill"
    done = launch(["--recipe", str(write_recipe(world, "distill", run_dir, model={"drop_path": 0.1}))])
    assert done.returncode == 0, done.stderr
    assert "bridge" in done.stdout
    return run_dir


@pytest.fixture(scope="module")
def aligned(world: Path, distilled: Path) -> Path:
    run_dir = world / "align"
    train(["--recipe", str(write_recipe(world, "align", run_dir, model={"vision": str(distilled / "model")}))])
    return run_dir


@pytest.fixture(scope="module")
def finetuned(world: Path, aligned: Path) -> Path:
    run_dir = world / "finetune"
    recipe = write_recipe(
        world, "finetune", run_dir, batch={"micro_batches": 2}, image_log_every=2, model={"drop_path": 0.1}
    )
    train(["--recipe", str(recipe)])
    return run_dir


def test_run_directory_holds_what_is_promised(distilled, finetuned):
    for run_dir in (distilled, finetuned):
        for name in ("recipe.yaml", "ds_config.json", "environment.json", "metrics.jsonl", "summary.json", "model"):
            assert (run_dir / name).exists(), name
        assert list((run_dir / "tensorboard").iterdir())
        assert '"auto"' not in (run_dir / "ds_config.json").read_text()


def test_summary_gives_means_of_first_and_last_steps(distilled):
    summary = json.loads((distilled / "summary.json").read_text())
    logged = list(losses(distilled).values())
    assert set(summary) == {"stage", "steps", "seconds", "loss_first", "loss_last", "samples_per_s"}
    assert summary["loss_first"] == pytest.approx(sum(logged) / 4, rel=1e-12)
    assert summary["samples_per_s"] > 0


def test_distillation_moves_every_parameter_of_the_student(world, distilled):
    fresh = build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(7))
    student = InternVLVisionModel.from_pretrained(distilled / "model")
    for (name, before), after in zip(fresh.named_parameters(), student.parameters(), strict=True):
        assert not torch.equal(before, after), name


def test_alignment_changes_the_projector_alone(world, distilled, aligned):
    after = load_vlm(aligned / "model")
    before = join_vlm(
        load_vision(distilled / "model"),
        load_language(world / "language"),
        image_token_id=tokenizer_from("tokenizer", str(world / "tokenizer")).convert_tokens_to_ids(IMAGE_TOKEN),
        generator=torch.Generator().manual_seed(yaml.safe_load((aligned / "recipe.yaml").read_text())["seed"]),
    )
    frozen = 0
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if "multi_modal_projector" not in name:
            assert torch.equal(old, new), name
            frozen += 1
        else:
            assert not torch.equal(old, new), name
            if old.dim() > 1:  # from where it began, not anywhere
                assert torch.cosine_similarity(old.flatten(), new.flatten(), dim=0) > 0.5, name
    assert frozen > 100


def test_finetuning_moves_every_parameter(aligned, finetuned):
    before, after = load_vlm(aligned / "model"), load_vlm(finetuned / "model")
    seen = tokenizer_from("tokenizer", str(finetuned / "model"))
    assert len(seen) == before.config.text_config.vocab_size
    for (name, old), new in zip(before.named_parameters(), after.named_parameters(), strict=True):
        assert not torch.equal(old, new[1]), name


def test_finished_model_is_a_stock_model(finetuned):
    stock = AutoModelForImageTextToText.from_pretrained(finetuned / "model")
    ours = load_vlm(finetuned / "model")
    for (name, one), other in zip(stock.named_parameters(), ours.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_finished_run_is_not_repeated(finetuned):
    before = (finetuned / "metrics.jsonl").read_bytes()
    output = train(["--recipe", str(finetuned.parent / "finetune-finetune.yaml")])
    assert "already finished" in output
    assert (finetuned / "metrics.jsonl").read_bytes() == before
