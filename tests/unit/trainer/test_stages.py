"""Stages in one process: losses against definitions, what is frozen, what is missing."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from data_shards.coords import CoordinateFormat
from data_shards.schema import QUESTION_KINDS
from data_shards.view_layout import ViewLayout
from models.loading import Blank
from models.presets import vision_config
from models.saving import save_model
from models.vision import normalise_tiles
from models.vlm import build_vision, load_language
from tests.helpers.stages import make_teacher_vlm, make_world, write_recipe
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.preprocessing import Preprocessing, write_preprocessing
from trainer.stages import make_stage
from trainer.stages.align import AlignStage
from trainer.stages.base import Preparation, Stage
from trainer.stages.distill import DistillStage
from trainer.stages.sources import StageError

CPU = torch.device("cpu")


class _Alone:
    """Stands for `Ranks` of a world of one."""

    def on_main(self, act):
        return act()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), frames=4)


def _make(world: Path, stage: str, **changes: object):
    recipe, _ = load_recipe(write_recipe(world, stage, world / "run", **changes))
    made = make_stage(recipe, torch.float32)
    return made, make_data(recipe, made.text, None)


def _prepare(stage: DistillStage, data, run_dir: Path) -> None:
    run_dir.mkdir(exist_ok=True)
    stage.prepare(Preparation(ranks=_Alone(), device=CPU, run_dir=run_dir, first_batches=data.first_batches))


@pytest.fixture(scope="module")
def distill(world: Path, tmp_path_factory: pytest.TempPathFactory):
    stage, data = _make(world, "distill")
    _prepare(stage, data, tmp_path_factory.mktemp("run"))
    return stage, next(data.first_batches())


@pytest.fixture(scope="module")
def align(world: Path):
    stage, data = _make(world, "align")
    return stage, [batch for batch, _ in zip(data.first_batches(), range(10), strict=False)]


def test_features_term_is_minus_the_mean_cosine_of_the_last_layers(distill):
    stage, batch = distill
    stage.model.eval()
    out = stage.loss(stage.model, batch, CPU)
    pixels = normalise_tiles(batch.tiles)
    teacher = stage.teacher(pixels, output_hidden_states=True).hidden_states[-2:]
    student = stage.model(pixels)
    cosines = [cosine_similarity(s, t, dim=-1).mean() for s, t in zip(student, teacher, strict=True)]
    total, weight = out.metrics["features"]
    assert weight == len(batch.tiles) == stage.weight(batch)
    assert (total / weight).item() == pytest.approx(-float(sum(c.item() for c in cosines) / 2), rel=1e-4)
    for names in (("features", "patch_logits"), stage.datasets):
        assert out.total.item() == pytest.approx(sum(out.metrics[name][0].item() for name in names), rel=1e-5)


def test_teacher_receives_no_gradient_and_student_and_bridges_do(distill):
    stage, batch = distill
    stage.train_mode()
    stage.loss(stage.model, batch, CPU).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in stage.teacher.parameters())
    assert not stage.teacher.training
    assert all(p.grad is not None for p in stage.model.parameters())


def test_loss_falls_when_the_student_learns(distill):
    stage, batch = distill
    optimiser = torch.optim.AdamW(stage.model.parameters(), lr=3e-3)
    values = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = stage.loss(stage.model, batch, CPU).total
        loss.backward()
        optimiser.step()
        values.append(loss.item() / len(batch.tiles))
    assert values[-1] < values[0] - 0.2


def test_a_student_drops_paths_at_the_rate_of_its_configuration_unless_the_recipe_names_one(world, tmp_path):
    config = vision_config("tiny-student")
    config.drop_path_rate = 0.3
    save_model(build_vision(config, torch.Generator().manual_seed(0)), tmp_path / "student")

    def last_rate(**model):
        stage, _ = _make(world, "distill", model={"student": str(tmp_path / "student"), **model})
        announced = any("model.drop_path: 0.3" in note for note in stage.notes())
        return stage.exported().encoder.layer[-1].dropout.rate, announced

    assert last_rate() == (0.3, True)
    assert last_rate(drop_path=0.0) == (0.0, False)
    assert last_rate(drop_path=0.25) == (0.25, False)
    assert vision_config("internvit-300m").drop_path_rate == 0.1
    config.drop_path_rate = 1.5
    save_model(build_vision(config, torch.Generator().manual_seed(0)), tmp_path / "wrong")
    with pytest.raises(StageError, match=r"model\.drop_path: got 1\.5"):
        _make(world, "distill", model={"student": str(tmp_path / "wrong")})


def test_codebook_is_kept_and_read_back(world, tmp_path):
    first, data = _make(world, "distill")
    _prepare(first, data, tmp_path)
    written = (tmp_path / "codebook.safetensors").read_bytes()
    second, data = _make(world, "distill", seed=99)
    _prepare(second, data, tmp_path)
    assert torch.equal(first.codebook.prototypes, second.codebook.prototypes)
    assert (tmp_path / "codebook.safetensors").read_bytes() == written
    assert first.codebook.prototypes.norm(dim=-1).allclose(torch.ones(32))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data": {"view": {"tile_size": 56}}}, "tile sizes differ"),
        ({"distill": {"last_k": 9}}, "distill.last_k"),
        ({"model": {"student": "tiny-studnt"}}, "model.student"),
        ({"model": {"teacher": "nowhere"}}, "model.teacher"),
    ],
)
def test_distillation_that_does_not_fit_is_refused(world, changes, field):
    with pytest.raises(StageError, match=field):
        _make(world, "distill", **changes)


def test_codebook_larger_than_the_patches_is_refused(world, tmp_path):
    stage, data = _make(world, "distill", distill={"codebook_size": 5000})
    with pytest.raises(StageError, match=r"distill\.codebook_size"):
        _prepare(stage, data, tmp_path)


def test_alignment_trains_the_projector_and_leaves_the_rest_in_evaluation_mode(align):
    stage, _ = align
    assert isinstance(stage, AlignStage)
    stage.train_mode()
    for name, module in stage.model.named_modules():
        assert module.training == ("multi_modal_projector" in name), name
    trained = [name for name, p in stage.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("multi_modal_projector" in name for name in trained)
    assert [group.module for group in stage.parameter_groups()] == ["projector", "projector"]


def test_metrics_of_datasets_and_of_question_types_add_up_to_the_loss(align):
    stage, batches = align
    datasets, types = {"driving", "general"}, {f"type/{kind}" for kind in QUESTION_KINDS}
    names = set()
    for batch in batches:
        out = stage.loss(stage.model, batch, CPU)
        for kin in (datasets, types):
            parts = [value for name, value in out.metrics.items() if name in kin]
            assert float(sum(total for total, _ in parts)) == pytest.approx(out.total.item(), rel=1e-5)
            assert float(sum(weight for _, weight in parts)) == pytest.approx(stage.weight(batch), rel=1e-5)
        names |= {name for name, (_, weight) in out.metrics.items() if weight > 0}
    assert names == datasets | types | {"accuracy/tokens"} == set(stage.metric_names())


def test_points_reach_the_batch_in_the_recipes_coordinates_and_weight(world):
    data = {"coordinates": {"space": "canvas", "decimals": 0}}
    (stage, heavy), (_, plain) = (
        _make(world, "align", data=data, coordinate_weight=weight, loss_weight="token") for weight in (5.0, 1.0)
    )
    pairs = zip(heavy.first_batches(), plain.first_batches(), strict=True)
    batches = [(a, b) for (a, b), _ in zip(pairs, range(10), strict=False)]
    targets = [stage.tokenizer.decode(a.label_targets) for a, _ in batches]
    assert any("_FRONT,[" in text for text in targets)
    assert not any(".0>" in text for text in targets)
    weights = [sorted(set((a.label_weights / b.label_weights).tolist())) for a, b in batches]
    assert {weight for found in weights for weight in found} == {1.0, 5.0}


def test_picture_shows_question_answer_and_reference(align):
    stage, batches = align
    batch = next(batch for batch in batches if not batch.dummy_tile and batch.meta.datasets[0] == "driving")
    picture = stage.picture(batch, stage.loss(stage.model, batch, CPU))
    assert picture.name == "driving/question"
    assert "Case" in picture.caption
    assert "**reference**: " in picture.caption
    assert "**likeliest tokens after the reference's**: " in picture.caption
    assert picture.image.dtype.name == "uint8"
    assert picture.image.shape[0] > 2 * 112


def test_language_model_is_taken_over_unchanged(world, align):
    stage, _ = align
    expected = load_language(world / "language").state_dict()["lm_head.weight"]
    assert torch.equal(stage.vlm.lm_head.weight, expected)


@pytest.mark.parametrize(
    ("stage", "model", "former"),
    [("align", {"vision": "runs/x/model"}, "distill"), ("finetune", {"vlm": "runs/x/model"}, "align")],
)
def test_missing_output_of_the_former_stage_names_the_command_that_makes_it(world, stage, model, former):
    with pytest.raises(StageError, match=rf"stage '{former}' writes it .*trainer/run\.py.*run_dir=runs/x"):
        _make(world, stage, model=model)


def test_former_run_that_did_not_reach_its_end_is_recognised(world, tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(StageError, match="did not reach its end"):
        _make(world, "finetune", model={"vlm": str(tmp_path / "model")})


def test_stages_announce_that_a_model_learnt_points_otherwise(world):
    vlm = make_teacher_vlm(world)
    own = {"model": {"vlm": str(vlm)}}
    answers = {"model": {"teacher": str(world / "teacher"), "student": "tiny-student", "teacher_vlm": str(vlm)}}
    settings = {"distill": answers | {"distill": {"answer_logits": 1.0}}, "finetune": own}
    view = ViewLayout(tile_size=112, max_tiles=1, thumbnail=False)
    for space, announced in (("canvas", True), ("pixels", False)):
        write_preprocessing(Preprocessing(view=view, coordinates=CoordinateFormat(space=space)), vlm)
        for name, changes in settings.items():
            stage, _ = _make(world, name, **changes)
            assert any("data.coordinates: model." in note for note in stage.notes()) == announced


def test_a_tokenizer_that_is_not_there_is_refused(world):
    with pytest.raises(StageError, match=r"model\.tokenizer"):
        _make(world, "align", model={"tokenizer": "nowhere"})


def test_files_of_a_part_that_is_trained_in_part_are_a_base_as_well():
    whole, mixed = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    mixed.bias.requires_grad_(False)
    teacher, trained, partly = (SimpleNamespace(files=(name,)) for name in ("teacher", "trained", "partly"))
    blanks = (Blank(whole, trained), Blank(mixed, partly), Blank(mixed, teacher))
    stage = SimpleNamespace(frozen={"model.teacher": teacher}, blanks=blanks)
    assert Stage.bases(stage) == {"model.teacher": teacher, "part 0": partly}
