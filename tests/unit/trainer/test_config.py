"""Recipes: what is read, refused, overridden and derived."""

from pathlib import Path

import pytest
import yaml

from trainer.config import ConfigError, load_recipe, recipe_to_yaml, warmup_steps
from trainer.recipe import LearningRates, WeightDecays

BASE = {
    "stage": "distill",
    "run_dir": "runs/x",
    "steps": 100,
    "model": {"teacher": "t", "student": "tiny-student"},
    "data": {"datasets": [{"path": "shards/driving", "weight": 2.5}]},
}


def _write(tmp_path: Path, tree: dict) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_all_problems_come_in_one_error_and_name_the_file(tmp_path):
    tree = BASE | {"optm": {}, "steps": "many", "keep": 0, "optim": {"betas": [0.9], "scedule": "cosine"}}
    path = _write(tmp_path, tree)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    text = str(caught.value)
    assert "optm: unknown field; did you mean 'optim'?" in text
    assert "optim.scedule: unknown field; did you mean 'schedule'?" in text
    assert "steps: got 'many', expected a whole number" in text
    assert "optim.betas: got [0.9], expected a list of 2 values" in text
    assert all(line.startswith(str(path)) for line in text.splitlines())


def test_values_out_of_range_are_refused_together(tmp_path):
    path = _write(tmp_path, BASE)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["steps=0", "optim.betas=[0.9, 1.5]", "data.datasets.0.weight=-1", "distill.temperature=0"])
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("stage=align", "model.vision"),
        ("stage=finetune", "model.vlm"),
        ("model.projector=conv", "model.projector"),
        ("data.datasets=[]", "data.datasets"),
        ("data.view.mode=round", "data.view.mode"),
        ("data.datasets=[{path: a, fraction: 0}]", "data.datasets.0.fraction: got 0"),
        ("data.datasets=[{path: a, fraction: 4}, {path: b}]", "`fraction` for 1 of 2 datasets"),
        ("data.datasets=[{path: a, fraction: 4, weight: 2}]", "data.datasets.0: got both `weight` and `fraction`"),
        ("data.view.tile_size=0", "tile_size"),
        ("data.coordinates.space=world", "data.coordinates.space"),
        ("data.coordinates.decimals=7", "data.coordinates.*decimals"),
        ("coordinate_weight=0", "coordinate_weight"),
        ("optim.warmup=200", "optim.warmup"),
        ("model.drop_path=1", "model.drop_path"),
        ("model.student=null", "model.student: missing"),
        ("model.teacher=null", "model.teacher: missing"),
        ("model.student_layers=2", "model.student_layers: got 2 and the student 'tiny-student'"),
        ("distill.answer_logits=1", "model.teacher_vlm: missing"),
        ("distill={features: 0, patch_logits: 0}", "distill: all terms have weight 0"),
        ("data.datasets.0.targets=cache", "distill.codebook: missing"),
        ("data.datasets=[{path: a, targets: b}, {path: c}]", "some have `targets`"),
        ("model.checkpointing.vision=-1", r"model\.checkpointing\.vision: got -1, expected 0 or more"),
        ("model.checkpointing.language=most", r"got 'most', expected one of 'all', 'auto' or a whole number"),
        ("model.checkpointing.gpu_gib=-1", r"model\.checkpointing\.gpu_gib: got -1\.0, expected 0 or more"),
        ("optim.layer_decay=0", r"optim\.layer_decay: got 0\.0, expected more than 0"),
        ("optim.layer_decay=1.5", r"optim\.layer_decay: got 1\.5, expected 0 to 1"),
        ("optim.weight_decay.vision=-1", r"optim\.weight_decay\.vision"),
        ("optim.no_decay=[bias]", r"optim\.no_decay\.0: got 'bias'"),
        ("hang_after=600", "hang_after: got 600 s, expected less than"),
        ("hang_after=-1", "hang_after"),
        ("max_skipped=0", "max_skipped"),
        ("profile.start=0", "profile.start"),
        ("profile={start: 5000, steps: 3}", r"profile\.start: got 5000, expected at most steps = "),
        ("optim.lr=.inf", r"optim\.lr: got inf, expected"),
        ("optim.grad_clip=.nan", r"optim\.grad_clip: got nan, expected a number"),
        ("optim.betas=[0.9, 1.0]", r"optim\.betas\.1: got 1\.0, expected 0 up to"),
        ("seed=99999999999999999999", "seed: got 99999999999999999999, expected at most"),
        ("validation.every=5", "validation.datasets: got none"),
        ("validation.answers=3", "stage 'distill' has no language model"),
        ("validation.best=accuracy", "validation.best: got 'accuracy' without answers"),
        ("validation.best=speed", "validation.best"),
        ("data.datasets=[{path: a/features}]", "'features' is the name of a curve, loss/features"),
        ("validation.datasets=[{path: a/val}, {path: b/val}]", "validation.datasets: the name 'val' occurs twice"),
    ],
)
def test_bad_setting_is_named(tmp_path, override, field):
    with pytest.raises(ConfigError, match=field):
        load_recipe(_write(tmp_path, BASE), [override])


def test_overrides_reach_sections_lists_and_numbers_with_exponent(tmp_path):
    overrides = ["optim.lr=1e-4", "data.datasets.0.path=elsewhere", "data.view.max_tiles=6", "model.teacher=null"]
    with pytest.raises(ConfigError, match=r"model\.teacher: missing"):
        load_recipe(_write(tmp_path, BASE), overrides)
    recipe, _ = load_recipe(_write(tmp_path, BASE), overrides[:3])
    assert recipe.optim.lr == LearningRates(vision=1e-4, projector=1e-4, language=1e-4, bridge=1e-4)
    assert recipe.data.datasets[0].path == Path("elsewhere")
    assert recipe.data.datasets[0].weight == 2.5
    assert recipe.data.view.max_tiles == 6


@pytest.mark.parametrize("override", ["steps", "=3", "steps.deeper=1", "data.datasets.7.path=x"])
def test_override_that_fits_nowhere_is_refused(tmp_path, override):
    with pytest.raises(ConfigError, match="command line"):
        load_recipe(_write(tmp_path, BASE), [override])


def test_of_repeated_overrides_the_last_holds_and_is_blamed(tmp_path):
    recipe, _ = load_recipe(_write(tmp_path, BASE), ["steps=2", "steps=3"])
    assert recipe.steps == 3
    with pytest.raises(ConfigError, match="command line, steps=0: steps: got 0"):
        load_recipe(_write(tmp_path, BASE), ["steps=2", "steps=0"])


def test_repeated_key_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text(yaml.safe_dump(BASE) + "steps: 5\n")
    with pytest.raises(ConfigError, match="occurs twice"):
        load_recipe(path)


def test_missing_file_and_wrong_content_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "no.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_written_recipe_reads_back_the_same(tmp_path):
    recipe, _ = load_recipe(_write(tmp_path, BASE), ["optim.lr.vision=3e-7", "loss_weight=token"])
    again = tmp_path / "again.yaml"
    again.write_text(recipe_to_yaml(recipe))
    assert load_recipe(again)[0] == recipe


def test_derived_values_are_announced(tmp_path):
    recipe, notes = load_recipe(_write(tmp_path, BASE))
    assert recipe.data.datasets[0].name == "driving"
    assert any("'driving'" in note for note in notes)
    assert any("3 steps" in note for note in notes)


def test_warmup_below_one_is_a_fraction(tmp_path):
    path = _write(tmp_path, BASE)
    assert warmup_steps(load_recipe(path, ["optim.warmup=0.1"])[0]) == 10
    assert warmup_steps(load_recipe(path, ["optim.warmup=7"])[0]) == 7


def test_two_datasets_of_one_name_are_refused(tmp_path):
    tree = BASE | {"data": {"datasets": [{"path": "a/train"}, {"path": "b/train"}]}}
    with pytest.raises(ConfigError, match="'train' occurs twice"):
        load_recipe(_write(tmp_path, tree))


def test_cached_targets_need_no_teacher_but_a_codebook_and_fewer_entries_than_it_has(tmp_path):
    path = _write(tmp_path, BASE)
    cached = ["data.datasets.0.targets=cache", "distill.codebook=book", "model.teacher=null"]
    recipe, _ = load_recipe(path, cached)
    assert recipe.data.datasets[0].targets == Path("cache")
    with pytest.raises(ConfigError, match=r"distill\.top_k: got 64, expected less than the 64 entries"):
        load_recipe(path, [*cached, "distill.top_k=64", "distill.codebook_size=64"])
    with pytest.raises(ConfigError, match=r"distill\.codebook_size: got 70000"):
        load_recipe(path, [*cached, "distill.codebook_size=70000"])
    with pytest.raises(ConfigError, match=r"model\.teacher: missing"):
        load_recipe(path, [*cached, "model.student=null", "model.student_layers=2"])


def test_targets_of_another_stage_are_refused(tmp_path):
    tree = BASE | {"stage": "finetune", "model": {"vlm": "x"}}
    with pytest.raises(ConfigError, match="`targets` are for stage 'distill'"):
        load_recipe(_write(tmp_path, tree), ["data.datasets.0.targets=cache"])


def test_drop_path_in_a_stage_that_freezes_the_tower_is_refused(tmp_path):
    parts = {"vision": "v", "language": "l", "tokenizer": "t"}
    load_recipe(_write(tmp_path, BASE | {"stage": "align", "model": parts}))
    path = _write(tmp_path, BASE | {"stage": "align", "model": parts | {"drop_path": 0.1}})
    with pytest.raises(ConfigError, match=r"model\.drop_path: got 0\.1, expected 0 in stage 'align'"):
        load_recipe(path)


def test_one_number_of_weight_decay_and_layers_by_module(tmp_path):
    given = ["optim.weight_decay=0.2", "model.checkpointing={vision: all, language: 3}", "model.freeze=['*.bias']"]
    recipe, _ = load_recipe(_write(tmp_path, BASE), given)
    assert recipe.optim.weight_decay == WeightDecays.from_number(0.2)
    assert (recipe.model.checkpointing.vision, recipe.model.checkpointing.language) == ("all", 3)
    assert recipe.model.freeze == ("*.bias",)
    path = tmp_path / "again.yaml"
    path.write_text(recipe_to_yaml(recipe))
    assert load_recipe(path)[0] == recipe
