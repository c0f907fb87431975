"""DeepSpeed configurations: what the recipe fills in, and conflicts."""

import json
from pathlib import Path

import pytest
import yaml

from tests.helpers.paths import ROOT
from trainer.config import ConfigError, Recipe, load_recipe
from trainer.ds_config import load_ds_config, precision, resolve, zero_stage

RECIPE = Path("recipes/r.yaml")
CONFIG = Path("ds/c.json")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "r.yaml"
    tree = {
        "stage": "finetune",
        "run_dir": "r",
        "steps": 9,
        "model": {"vlm": "v"},
        "data": {"datasets": [{"path": "d"}]},
        "batch": {"micro_batches": 3},
        "optim": {"lr": {"vision": 1e-5, "language": 4e-5, "projector": 2e-5, "bridge": 0.0}, "grad_clip": 0.5},
    }
    path.write_text(yaml.safe_dump(tree))
    return load_recipe(path)[0]


def _resolve(config: dict, recipe: Recipe) -> dict:
    return resolve(config, recipe, world_size=4, config_path=CONFIG, recipe_path=RECIPE)


@pytest.mark.parametrize("path", sorted((ROOT / "ds_configs").glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_configuration_is_filled_completely(path, recipe):
    resolved = _resolve(load_ds_config(path), recipe)
    assert "auto" not in json.dumps(resolved)
    assert resolved["train_batch_size"] == 12
    assert resolved["gradient_accumulation_steps"] == 3
    assert resolved["gradient_clipping"] == 0.5
    assert resolved["optimizer"]["params"]["lr"] == 4e-5


def test_file_names_say_the_stage_and_precision():
    named = {path.stem: load_ds_config(path) for path in (ROOT / "ds_configs").glob("*.json")}
    assert {name: zero_stage(config) for name, config in named.items()} == {
        "cpu_zero3": 3,
        "zero1": 1,
        "zero2": 2,
        "zero3": 3,
        "zero3_offload": 3,
    }
    assert precision(named["cpu_zero3"]) == "float32"
    assert precision(named["zero3"]) == "bfloat16"


def test_equal_value_in_both_files_is_no_conflict(recipe):
    assert _resolve({"gradient_clipping": 0.5}, recipe)["gradient_clipping"] == 0.5


def test_conflicts_name_both_files_and_come_together(recipe):
    config = {"gradient_clipping": 1.0, "train_batch_size": 64, "scheduler": {"type": "WarmupLR"}}
    with pytest.raises(ConfigError) as caught:
        _resolve(config, recipe)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(str(CONFIG) in line and str(RECIPE) in line for line in lines)


def test_auto_that_nothing_fills_is_refused(recipe):
    with pytest.raises(ConfigError, match=r"zero_optimization\.reduce_bucket_size"):
        _resolve({"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}}, recipe)


def test_given_configuration_is_left_as_it_was(recipe):
    config = {"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}}
    _resolve(config, recipe)
    assert config == {"optimizer": {"type": "AdamW", "params": {"lr": "auto"}}}


def test_unreadable_configuration_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_ds_config(tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_ds_config(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ConfigError, match="expected an object"):
        load_ds_config(tmp_path / "list.json")


def test_a_misspelt_section_is_refused_with_the_nearest_name(recipe):
    with pytest.raises(ConfigError, match="unknown section 'zero_optimisation'; did you mean 'zero_optimization'"):
        _resolve({"zero_optimisation": {"stage": 3}}, recipe)
    assert "aio" in _resolve({"aio": {}}, recipe)


def test_parameters_on_nvme_are_refused(recipe):
    zero = {"stage": 3, "offload_param": {"device": "nvme"}}
    with pytest.raises(ConfigError, match=r"offload_param\.device is nvme, expected cpu or none"):
        _resolve({"zero_optimization": zero}, recipe)
    _resolve({"zero_optimization": zero | {"offload_param": {"device": "cpu"}}}, recipe)


@pytest.mark.parametrize(
    ("stage", "types", "message"),
    [
        (1, {"grad_accum_dtype": "fp32"}, r"fp32 under ZeRO stage 1, .* set zero_optimization\.stage to 2 or 3"),
        (3, {"grad_accum_dtype": "bf16"}, r"data_types is .*, expected .*fp32"),
        (3, {"params_dtype": "fp32"}, r"data_types is .*, expected .*fp32"),
    ],
)
def test_gradients_are_added_up_in_float32_or_in_what_is_trained_in(recipe, stage, types, message):
    config = {"bf16": {"enabled": True}, "zero_optimization": {"stage": stage}}
    with pytest.raises(ConfigError, match=message):
        _resolve(config | {"data_types": types}, recipe)
    precise = {"grad_accum_dtype": "fp32"}
    for good in (2, 3):
        resolved = _resolve(config | {"zero_optimization": {"stage": good}, "data_types": precise}, recipe)
        assert resolved["data_types"] == precise
