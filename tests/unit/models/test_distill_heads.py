"""Bridges, codebook and the clustering that makes it."""

import pytest
import torch
from torch.nn.functional import normalize

from models.distill_heads import Codebook, DistillStudent, spherical_kmeans, sums_by_products
from models.presets import vision_config
from models.vision import patch_features
from models.vlm import build_vision


def clusters(count: int, each: int, width: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Well apart directions [count, width], and `each` noisy features of any length around every one."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.linalg.qr(torch.randn(width, count, generator=generator)).Q.T
    lengths = torch.rand(count, each, 1, generator=generator) * 5 + 0.1
    points = (centres[:, None] + noise * torch.randn(count, each, width, generator=generator)) * lengths
    return centres, points.reshape(-1, width)


def student(last_k: int) -> DistillStudent:
    generator = torch.Generator().manual_seed(0)
    return DistillStudent(build_vision(vision_config("tiny-student"), generator), 160, last_k, generator)


def test_bridged_features_have_the_teachers_shape():
    pixels = torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    teacher = build_vision(vision_config("tiny-teacher"), torch.Generator().manual_seed(0))
    for ours, theirs in zip(student(2)(pixels), patch_features(teacher, pixels, 2), strict=True):
        assert ours.shape == theirs.shape == (3, 65, 160)


def test_every_parameter_of_a_student_gets_a_gradient():
    model = student(3)
    pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    sum(state.pow(2).mean() for state in model(pixels)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


def test_kmeans_finds_separable_clusters():
    centres, points = clusters(count=12, each=50, width=16, noise=0.03)
    prototypes = spherical_kmeans(points, 12, 10, torch.Generator().manual_seed(0))
    cosine = centres @ prototypes.T
    assert (cosine.amax(dim=1) > 0.999).all()
    assert sorted(cosine.argmax(dim=1).tolist()) == list(range(12))
    assert torch.allclose(prototypes.norm(dim=1), torch.ones(12), atol=1e-6)


def test_more_iterations_do_not_lower_the_mean_cosine():
    points = torch.randn(600, 8, generator=torch.Generator().manual_seed(2))
    quality = [
        float(
            (normalize(points, dim=-1) @ spherical_kmeans(points, 20, n, torch.Generator().manual_seed(0)).T)
            .amax(1)
            .mean()
        )
        for n in (0, 1, 3, 10)
    ]
    assert quality == sorted(quality)
    assert quality[-1] > quality[0] + 0.02


def test_no_prototype_stays_without_features():
    points = torch.cat([clusters(count=2, each=40, width=6, noise=0.0)[1], torch.eye(6)])
    prototypes = spherical_kmeans(points, 8, 5, torch.Generator().manual_seed(0))
    assert prototypes.isfinite().all()
    assert torch.allclose(prototypes.norm(dim=1), torch.ones(8), atol=1e-5)


def test_the_seed_decides_the_codebook():
    points = torch.randn(300, 8, generator=torch.Generator().manual_seed(2))
    one, same, other = (spherical_kmeans(points, 10, 4, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_more_entries_than_features_are_refused():
    with pytest.raises(ValueError, match="got 5, expected 1 to 4"):
        spherical_kmeans(torch.eye(4), 5, 1, torch.Generator().manual_seed(0))


def test_patch_logits_are_cosines_over_the_temperature():
    generator = torch.Generator().manual_seed(0)
    book = Codebook(torch.randn(7, 160, generator=generator) * 3)
    features = torch.randn(2, 64, 160, generator=generator)
    logits = book(features, temperature=0.1)
    assert logits.shape == (2, 64, 7)
    expected = torch.cosine_similarity(features[1, 5], book.prototypes[4], dim=0) / 0.1
    assert float(logits[1, 5, 4]) == pytest.approx(float(expected), abs=1e-5)


def test_the_codebook_is_state_and_not_a_parameter():
    book = Codebook(torch.eye(4))
    assert not list(book.parameters())
    fresh = Codebook(torch.zeros(4, 4))
    fresh.load_state_dict(book.state_dict())
    assert torch.equal(fresh.prototypes, torch.eye(4))


def test_sums_of_a_prototypes_points_are_the_same_by_products_as_a_gpu_makes_them():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(103, 6, generator=generator, dtype=torch.float64)
    nearest = torch.randint(0, 5, (103,), generator=generator)
    nearest[nearest == 3] = 2  # a prototype without points
    expected = torch.stack([points[nearest == entry].sum(dim=0) for entry in range(5)])
    torch.testing.assert_close(sums_by_products(points, nearest, 5, rows=20), expected, rtol=1e-12, atol=1e-12)
    assert sums_by_products(points, nearest, 5)[3].count_nonzero() == 0
