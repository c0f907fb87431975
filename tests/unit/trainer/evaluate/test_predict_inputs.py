"""What decides an answer: models that differ anywhere are told apart."""

import pytest
import torch

from data_shards.index import load_index
from data_shards.view_layout import ViewLayout
from data_shards.write import write_shards
from models.safetensors_format import file_blocks
from tests.unit.trainer.tiny_run import tiny_frame
from trainer.evaluate.predict_inputs import PredictInputs, PredictJob, deciding_settings
from trainer.preprocessing import Preprocessing


@pytest.fixture
def model_setting(tmp_path):
    """Weights of three tensors in, what stands for the model among the settings out."""
    write_shards([tiny_frame(0, 2)], tmp_path / "data", source="test", licence="none")
    job = PredictJob(model=tmp_path / "model", data=tmp_path / "data", out=tmp_path / "p.json")
    job.model.mkdir()
    index = load_index(job.data)

    def setting(*values):
        tensors = {name: torch.full((1 << 19,), value) for name, value in zip("abc", values, strict=True)}
        (job.model / "model.safetensors").write_bytes(b"".join(file_blocks(tensors)))
        settings = Preprocessing(view=ViewLayout())
        return deciding_settings(job, PredictInputs(preprocessing=settings, index=index, questions={}))["model"]

    return setting


def test_models_that_differ_in_the_middle_of_a_large_file_are_told_apart(model_setting):
    first = model_setting(1.0, 2.0, 3.0)
    assert model_setting(1.0, 2.5, 3.0) != first
    assert model_setting(1.0, 2.0, 3.0) == first


def test_settings_of_a_model_count_too(model_setting, tmp_path):
    first = model_setting(1.0, 2.0, 3.0)
    (tmp_path / "model" / "config.json").write_text("{}")
    assert model_setting(1.0, 2.0, 3.0) != first
