"""Which runs multiply in TF32, and what they say of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainer.bench.settings import BenchSettings, bench_recipe
from trainer.codebook import CodebookRecord, fit_codebook
from trainer.tensor_cores import full_precision, use_tensor_cores

HALF, FULL = {"bf16": {"enabled": True}}, {}


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr("trainer.tensor_cores.num_gpus", lambda: 1)
    former = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(former)


def recipe(stage="distill"):
    return bench_recipe(BenchSettings(preset="tiny", stage=stage, ds_config=Path("x")), Path("r"))


def test_codebook_logits_of_a_distillation_in_16_bits_are_made_in_tf32_and_that_is_said(gpu):
    (said,) = use_tensor_cores(recipe(), HALF)
    assert "TF32" in said
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize(
    ("asked", "config"),
    [
        (recipe(), FULL),
        (recipe("align"), HALF),
        (replace(recipe(), distill=replace(recipe().distill, patch_logits=0.0)), HALF),
    ],
)
def test_other_runs_stay_as_they_are(gpu, asked, config):
    assert use_tensor_cores(asked, config) == ()
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_cpu_stays_as_it_is():
    assert use_tensor_cores(recipe(), HALF) == ()


def test_a_codebook_is_fitted_in_full_precision_whoever_fits_it(gpu, monkeypatch, tmp_path):
    use_tensor_cores(recipe(), HALF)
    seen = []

    def fit(features, entries, iterations, generator):
        seen.append(torch.get_float32_matmul_precision())
        return features[:entries]

    monkeypatch.setattr("trainer.codebook.spherical_kmeans", fit)
    numbers = {"tile_size": 112, "patch_size": 14, "entries": 2, "iterations": 1, "seed": 0, "tiles": 1}
    record = CodebookRecord(teacher_sha256="", preprocessing_sha256="", **numbers)
    fit_codebook(torch.randn(8, 4), record, tmp_path / "book.safetensors")
    assert seen == ["highest"]
    assert torch.get_float32_matmul_precision() == "high"
    with pytest.raises(RuntimeError), full_precision():
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == "high"
