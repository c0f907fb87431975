"""How a model was shown its frames: written, read back, and refused where it does not parse."""

import json

import pytest
import yaml

from data_shards.coords import DRIVELM, CoordinateFormat
from data_shards.view_layout import ViewLayout
from trainer.preprocessing import (
    PREPROCESSING_FILE,
    Preprocessing,
    PreprocessingError,
    read_preprocessing,
    write_preprocessing,
)
from trainer.stages.sources import points_note

CANVAS = CoordinateFormat(space="canvas", decimals=0)
VIEW = ViewLayout(tile_size=112, max_tiles=1, thumbnail=False)


def test_settings_written_are_read_back_and_reach_the_template(tmp_path):
    settings = Preprocessing(view=VIEW, template="chatml", system="You drive.", coordinates=CANVAS)
    write_preprocessing(settings, tmp_path)
    read = read_preprocessing(tmp_path)
    assert read == settings
    chat = read.chat()
    assert (chat.name, chat.system, chat.coordinates) == ("chatml", "You drive.", CANVAS)


def test_a_file_without_coordinates_is_of_a_model_of_drivelms_own(tmp_path):
    write_preprocessing(Preprocessing(view=VIEW), tmp_path)
    path = tmp_path / PREPROCESSING_FILE
    record = json.loads(path.read_text())
    del record["coordinates"]
    path.write_text(json.dumps(record))
    assert read_preprocessing(tmp_path).coordinates == DRIVELM


def test_the_coordinates_of_a_run_come_from_its_recipe(tmp_path):
    recipe = {
        "stage": "finetune",
        "run_dir": str(tmp_path),
        "steps": 1,
        "model": {"vlm": "elsewhere"},
        "data": {"datasets": [{"path": "elsewhere"}], "coordinates": {"space": "canvas", "decimals": 0}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "model").mkdir()
    assert read_preprocessing(tmp_path / "model").coordinates == CANVAS


def test_a_model_that_learnt_points_otherwise_is_announced(tmp_path):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    assert points_note("model.vlm", "drivlm-2b", DRIVELM) == points_note("model.vlm", str(model), DRIVELM) == ()
    write_preprocessing(Preprocessing(view=VIEW, coordinates=CANVAS), model)
    assert points_note("model.vlm", str(model), CANVAS) == ()
    (note,) = points_note("model.vlm", str(model), DRIVELM)
    assert f"model.vlm {model} learnt points as {{space: canvas, decimals: 0}}, this run writes {{space: pixels" in note
    (model / "preprocessing.json").unlink()
    (model.parent / "recipe.yaml").write_text("stage: nonsense\n")
    (note,) = points_note("model.vlm", str(model), DRIVELM)
    assert "cannot be told" in note


@pytest.mark.parametrize("coordinates", [{"space": "world"}, {"decimals": -1}, {"x": 1}, 5])
def test_coordinates_that_do_not_parse_are_refused_with_the_file(tmp_path, coordinates):
    write_preprocessing(Preprocessing(view=VIEW), tmp_path)
    path = tmp_path / PREPROCESSING_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"coordinates": coordinates}))
    with pytest.raises(PreprocessingError, match=rf"{PREPROCESSING_FILE}.*export again"):
        read_preprocessing(tmp_path)
