"""Codebook files: what they remember, and what is refused."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from models.distill_heads import spherical_kmeans
from trainer.codebook import CodebookError, CodebookRecord, fit_codebook, read_codebook

RECORD = CodebookRecord(
    teacher_sha256="ab" * 32,
    preprocessing_sha256="cd" * 32,
    tile_size=112,
    patch_size=14,
    entries=6,
    iterations=3,
    seed=5,
    tiles=2,
)


def features() -> torch.Tensor:
    return torch.randn(80, 10, generator=torch.Generator().manual_seed(1))


def test_a_codebook_comes_back_with_its_record(tmp_path):
    fit_codebook(features(), RECORD, tmp_path / "book.safetensors")
    stored = read_codebook(tmp_path / "book.safetensors")
    assert stored.record == RECORD
    assert torch.equal(stored.prototypes, spherical_kmeans(features(), 6, 3, torch.Generator().manual_seed(5)))
    assert stored.width == 10
    stored.check({"teacher_sha256": "ab" * 32, "entries": 6})


def test_the_same_fit_gives_the_same_file_and_another_seed_another(tmp_path):
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        fit_codebook(features(), replace(RECORD, seed=seed), tmp_path / name)
    one, same, other = (read_codebook(tmp_path / name).sha256 for name in ("one", "same", "other"))
    assert one == same != other


def test_another_teacher_is_refused_with_both_hashes(tmp_path):
    fit_codebook(features(), RECORD, tmp_path / "book.safetensors")
    stored = read_codebook(tmp_path / "book.safetensors")
    with pytest.raises(CodebookError) as caught:
        stored.check({"teacher_sha256": "ef" * 32, "preprocessing_sha256": "cd" * 32})
    assert f"got {'ab' * 32}, expected {'ef' * 32}" in str(caught.value)
    assert "preprocessing" not in str(caught.value).split(": the codebook")[0]


def test_files_that_are_no_codebook_are_refused(tmp_path):
    save_file({"prototypes": torch.eye(6)}, tmp_path / "bare.safetensors")
    fit_codebook(features(), RECORD, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-9])
    for name in ("bare.safetensors", "cut.safetensors", "missing.safetensors"):
        with pytest.raises(CodebookError, match=f"{name}: not a codebook"):
            read_codebook(tmp_path / name)
