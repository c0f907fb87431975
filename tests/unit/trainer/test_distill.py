"""Distillation beyond two online towers: cached targets, the term on answers, students of several origins."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from data_shards.entries import ShardError
from models.convert import convert
from models.presets import vision_config
from models.saving import save_model
from models.vision import TowerFeatures, normalise_tiles, patch_features
from models.vlm import build_vision, load_vision
from tests.helpers.opengvlab import InternVisionModel, randomised, write_checkpoint
from tests.helpers.opengvlab_configs import TINY_6B, TINY_300M, Vision
from tests.helpers.stages import make_teacher_vlm, make_world, write_recipe
from trainer.codebook import CodebookError
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.stages import make_stage
from trainer.stages.base import Preparation
from trainer.stages.sources import StageError
from trainer.targets.__main__ import main
from trainer.targets.record import TargetsError

CPU = torch.device("cpu")
ALONE = SimpleNamespace(on_main=lambda act: act())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_world(tmp_path_factory.mktemp("world"), frames=4)
    make_teacher_vlm(root)
    return root


def distill_recipe(world: Path, run_dir: Path, targets: str = "", **changes) -> Path:
    """A recipe whose datasets have targets under `world/targets`, if asked."""
    path = write_recipe(world, "distill", run_dir, **changes)
    tree = yaml.safe_load(path.read_text())
    tree["distill"]["codebook"] = str(world / "codebook.safetensors")
    if targets:
        for dataset in tree["data"]["datasets"]:
            dataset["targets"] = str(world / targets / Path(dataset["path"]).name)
    own = run_dir.with_suffix(".yaml")
    own.write_text(yaml.safe_dump(tree))
    return own


@pytest.fixture(scope="module")
def cached(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with a codebook and targets of both datasets: all entries, and the likeliest eight."""
    scratch = tmp_path_factory.mktemp("write")
    for top_k in (0, 8):
        recipe = distill_recipe(world, scratch / f"k{top_k}", f"targets-{top_k}", distill={"top_k": top_k})
        for step in (["--fit-codebook"], ["--part", "1/2"], ["--part", "0/2"]):
            assert main(["--recipe", str(recipe), *step]) == 0
    return world


def made(recipe_path: Path, *overrides: str):
    """The prepared stage and the first batch of its plan."""
    recipe, _ = load_recipe(recipe_path, overrides)
    stage = make_stage(recipe, torch.float32)
    data = make_data(recipe, stage.text, None, stage.cost())
    recipe.run_dir.mkdir(exist_ok=True, parents=True)
    stage.prepare(Preparation(ranks=ALONE, device=CPU, run_dir=recipe.run_dir, first_batches=data.first_batches))
    stage.model.eval()
    return stage, next(data.first_batches())


def gradient(stage, batch) -> torch.Tensor:
    out = stage.loss(stage.model, batch, CPU)
    total = out.total if out.second is None else out.total + out.second
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(stage.model.parameters()))])


def test_cached_targets_teach_what_the_teacher_itself_does(cached, tmp_path):
    online, batch = made(distill_recipe(cached, tmp_path / "online"))
    expected, direction = online.loss(online.model, batch, CPU), gradient(online, batch)
    for top_k, bound in ((0, 1e-3), (8, 0.2)):
        settings = {"distill": {"top_k": top_k}, "model": {"teacher": None}}
        stage, own = made(distill_recipe(cached, tmp_path / f"k{top_k}", f"targets-{top_k}", **settings))
        assert stage.teacher is None
        assert torch.equal(own.tiles, batch.tiles)
        out = stage.loss(stage.model, own, CPU)
        for name, limit in (("features", 1e-3), ("patch_logits", bound)):
            total, weight = expected.metrics[name]
            assert out.metrics[name][0].item() == pytest.approx(total.item(), rel=limit), (name, top_k)
            assert out.metrics[name][1] == weight
        assert torch.cosine_similarity(gradient(stage, own), direction, dim=0) > (0.9999 if top_k == 0 else 0.9)


def test_the_loss_of_each_dataset_is_that_of_its_own_tiles(cached, tmp_path):
    stage, batch = made(distill_recipe(cached, tmp_path / "run"))
    out = stage.loss(stage.model, batch, CPU)
    tiles = {name: 0 for name in ("driving", "general")}
    begin = 0
    for name, count in batch.meta.frame_tiles:
        own = replace(batch, tiles=batch.tiles[begin : begin + count])
        own = replace(own, meta=replace(batch.meta, num_tiles=count, frame_tiles=((name, count),)))
        tiles[name] += count
        begin += count
        alone = stage.loss(stage.model, own, CPU)
        assert alone.metrics[name][0].item() == pytest.approx(alone.total.item(), rel=1e-6)
    assert begin == len(batch.tiles)
    assert {name: out.metrics[name][1].item() for name in tiles} == tiles
    assert sum(out.metrics[name][0].item() for name in tiles) == pytest.approx(out.total.item(), rel=1e-5)


def test_a_student_of_cached_targets_learns(cached, tmp_path):
    stage, batch = made(distill_recipe(cached, tmp_path / "run", "targets-8", distill={"top_k": 8}))
    optimiser = torch.optim.AdamW(stage.model.parameters(), lr=3e-3)
    values = []
    for _ in range(6):
        optimiser.zero_grad()
        loss = stage.loss(stage.model, batch, CPU).total
        loss.backward()
        optimiser.step()
        values.append(loss.item() / len(batch.tiles))
    assert values[-1] < values[0] - 0.2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.view.exact=true", "field 'preprocessing_sha256': got [0-9a-f]{64}, expected [0-9a-f]{64}"),
        ("distill.temperature=2", r"temperature: got 1\.0, expected 2\.0"),
        ("distill.top_k=4", "top_k: got 8, expected 4"),
        ("distill.last_k=3", "layers: got 2, expected 3"),
        ("distill.codebook_size=16", r"field 'entries': got 32, expected 16"),
    ],
)
def test_targets_and_codebooks_of_other_settings_are_refused_with_both_values(cached, tmp_path, override, message):
    path = distill_recipe(cached, tmp_path / "run", "targets-8", distill={"top_k": 8})
    with pytest.raises((TargetsError, CodebookError), match=message):
        made(path, override)


def test_another_teacher_is_refused_whether_it_is_asked_or_cached(cached, tmp_path):
    save_model(build_vision(vision_config("tiny-teacher"), torch.Generator().manual_seed(99)), tmp_path / "other")
    for targets in ("", "targets-8"):
        path = distill_recipe(cached, tmp_path / f"run{targets}", targets, distill={"top_k": 8})
        with pytest.raises(CodebookError, match="field 'teacher_sha256': got [0-9a-f]{64}, expected [0-9a-f]{64}"):
            made(path, f"model.teacher={tmp_path / 'other'}")


def test_targets_of_another_codebook_are_refused(cached, tmp_path, capsys):
    path = distill_recipe(cached, tmp_path / "run", "targets-8", distill={"top_k": 8})
    book = f"distill.codebook={tmp_path / 'book.safetensors'}"
    assert main(["--recipe", str(path), "--fit-codebook", book, "seed=8"]) == 0
    with pytest.raises(TargetsError, match="codebook_sha256: got [0-9a-f]{64}, expected [0-9a-f]{64}"):
        made(path, book)
    assert main(["--recipe", str(path), book]) == 2
    assert "holds targets made otherwise: codebook_sha256" in capsys.readouterr().err
    assert main(["--recipe", str(path), "--fit-codebook", book, "seed=9"]) == 2
    assert "field 'seed': got 8, expected 9" in capsys.readouterr().err


def test_targets_of_another_dataset_are_refused(cached, tmp_path):
    path = distill_recipe(cached, tmp_path / "run", "targets-8", distill={"top_k": 8})
    with pytest.raises(ShardError, match="data.datasets|of another dataset|made from other images"):
        made(path, f"data.datasets.0.path={make_world(tmp_path / 'more', frames=5) / 'driving'}")


@pytest.mark.parametrize(
    ("override", "field"),
    [("stage=finetune", "stage"), ("data.datasets.0.targets=null", "targets"), ("distill.codebook=null", "codebook")],
)
def test_a_recipe_that_names_no_targets_is_refused_by_the_command(cached, tmp_path, capsys, override, field):
    path = distill_recipe(cached, tmp_path / "run", "targets-8", model={"vlm": "x"})
    assert main(["--recipe", str(path), override]) == 2
    assert field in capsys.readouterr().err


def answering(world: Path, run_dir: Path, targets: str = "", **terms) -> Path:
    model = {"teacher": None, "teacher_vlm": str(world / "teacher-vlm")}
    distill = {"answer_logits": 2.0, **terms}
    return distill_recipe(world, run_dir, targets, model=model, distill=distill)


def test_the_term_on_answers_is_a_mean_over_labels_beside_that_over_tiles(world, tmp_path):
    alone = {"features": 0.0, "patch_logits": 0.0}
    path = answering(world, tmp_path / "run", **alone)
    stage, batch = made(path, "distill.codebook=null")
    out = stage.loss(stage.model, batch, CPU)
    total, weight = out.metrics["answer_logits"]
    assert weight == stage.second_weight(batch) == pytest.approx(float(batch.label_weights.sum()))
    assert out.second.item() == pytest.approx(2.0 * total.item())
    assert out.total.item() == 0.0
    assert total.item() > 0
    assert set(stage.metric_names()) >= set(out.metrics)


def test_a_student_with_the_teachers_features_answers_as_the_teacher_does(world, tmp_path):
    stage, batch = made(answering(world, tmp_path / "run"), "distill.codebook=null")
    tower = TowerFeatures(stage.teacher)
    divergence, metrics = stage.answers.loss(*2 * [tower(_pixels(batch), 1)[-1]], batch)
    assert divergence.item() == 0
    assert metrics["accuracy/teacher_tokens"][0] == len(batch.label_targets)


def _pixels(batch):
    return normalise_tiles(batch.tiles)


def test_frozen_parts_have_no_gradient_no_optimiser_and_stay_in_evaluation(world, tmp_path):
    stage, batch = made(answering(world, tmp_path / "run"), "distill.codebook=null")
    stage.train_mode()
    stage.model.train()
    frozen = [*stage.teacher.parameters(), *stage.answers.head.module.parameters()]
    trained = {id(parameter) for group in stage.parameter_groups() for parameter in group.parameters}
    assert trained == {id(parameter) for parameter in stage.model.parameters()}
    assert not trained & set(map(id, frozen))
    out = stage.loss(stage.model, batch, CPU)
    (out.total + out.second).backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)
    assert all(parameter.grad is not None for parameter in stage.model.parameters())
    for part in (stage.teacher, stage.answers.head.module):
        assert not any(module.training for module in part.modules())


def test_nothing_of_the_teachers_pass_is_kept_for_the_backward_pass(world, tmp_path):
    stage, batch = made(distill_recipe(world, tmp_path / "run"), "distill.codebook=null")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        states = stage._online(_pixels(batch), 2)
        assert not kept
        stage.loss(stage.model, batch, CPU)
    assert all(not state.requires_grad and state.grad_fn is None for state in states)
    assert kept
    assert not set(kept) & {parameter.data_ptr() for parameter in stage.teacher.parameters()}


def test_cached_features_answer_without_the_tower(cached, tmp_path):
    teacher = f"model.teacher={cached / 'teacher'}"
    online, batch = made(answering(cached, tmp_path / "online"), teacher)
    direct, own = made(answering(cached, tmp_path / "cached", "targets-8", top_k=8), teacher)
    assert direct.teacher is None
    assert batch.meta.question_refs == own.meta.question_refs
    one, other = (stage.loss(stage.model, some, CPU) for stage, some in ((online, batch), (direct, own)))
    assert other.second.item() == pytest.approx(one.second.item(), rel=5e-3)


def test_a_model_made_for_another_tower_is_refused(world, tmp_path):
    path = answering(world, tmp_path / "run")
    save_model(build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0)), tmp_path / "narrow")
    with pytest.raises(StageError, match="made for a tower with width 160, expected 96"):
        made(path, f"model.teacher={tmp_path / 'narrow'}", "distill.codebook=null")


def test_a_student_starts_as_evenly_spaced_layers_of_the_teacher(world, tmp_path):
    path = distill_recipe(world, tmp_path / "run", model={"student": None, "student_layers": 3})
    stage, batch = made(path, "distill.codebook=null")
    teacher, student = load_vision(world / "teacher"), stage.exported()
    assert student.config.num_hidden_layers == 3
    assert teacher.config.num_hidden_layers == 5
    for own, its in enumerate((0, 2, 4)):
        for name, value in student.encoder.layer[own].state_dict().items():
            assert torch.equal(value, teacher.encoder.layer[its].state_dict()[name]), name
    assert torch.equal(student.embeddings.cls_token, teacher.embeddings.cls_token)
    all_five = made(path, "distill.codebook=null", "model.student_layers=5")[0].exported()
    pixels = _pixels(batch)[:2]
    with torch.no_grad():
        assert torch.allclose(patch_features(all_five, pixels, 1)[0], patch_features(teacher, pixels, 1)[0], atol=1e-5)
    with pytest.raises(StageError, match=r"model\.student_layers: got 6, expected 1 to 5"):
        made(path, "model.student_layers=6")


def _clip_checkpoint(directory: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    clip = randomised(CLIPVisionModel(CLIPVisionConfig(**sizes, patch_size=56, image_size=336, hidden_act="gelu")))
    directory.mkdir()
    state = {name.removeprefix("vision_model."): tensor.contiguous() for name, tensor in clip.state_dict().items()}
    save_file(state, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(clip.config.to_dict()))


def _internvit_checkpoint(directory: Path, config: Vision = TINY_300M) -> None:
    config = replace(config, image_size=448, patch_size=56)
    write_checkpoint(randomised(InternVisionModel(config)), config.json(), directory)


@pytest.mark.parametrize("write", [_clip_checkpoint, _internvit_checkpoint])
def test_a_student_starts_from_a_converted_checkpoint(world, tmp_path, write):
    _internvit_checkpoint(tmp_path / "6b", TINY_6B)
    write(tmp_path / "source")
    for name, to in (("6b", "teacher"), ("source", "student")):
        convert(tmp_path / name, tmp_path / to)
    stage, batch = made(
        distill_recipe(world, tmp_path / "run"),
        f"model={{teacher: {tmp_path / 'teacher'}, student: {tmp_path / 'student'}}}",
        f"data.datasets=[{{path: {world / 'driving'}}}]",
        "data.view={tile_size: 448, max_tiles: 1}",
        "data.max_tiles=6",
        "distill={codebook_size: 8, codebook_tiles: 6}",
    )
    expected = load_vision(tmp_path / "student").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in stage.exported().state_dict().items())
    out = stage.loss(stage.model, batch, CPU)
    out.total.backward()
    assert out.total.isfinite()
    assert all(parameter.grad is not None for parameter in stage.model.parameters())


def test_the_runs_own_codebook_is_that_of_the_command(cached, tmp_path):
    made(distill_recipe(cached, tmp_path / "run"), "distill.codebook=null")
    own = tmp_path / "run" / "codebook.safetensors"
    assert own.read_bytes() == (cached / "codebook.safetensors").read_bytes()
