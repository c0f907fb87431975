"""Losses against definitions written out."""

import pytest
import torch

from trainer.losses import negative_cosine, patch_kl


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_patch_kl_is_that_of_the_tempered_distributions_times_the_square():
    student, teacher, temperature = _draw(3, 4, 6), _draw(3, 4, 6, seed=1), 2.5
    expected = 0.0
    for tile in range(3):
        for patch in range(4):
            p = torch.softmax(teacher[tile, patch].double() / temperature, -1)
            q = torch.softmax(student[tile, patch].double() / temperature, -1)
            expected += float((p * (p / q).log()).sum()) / 4
    assert float(patch_kl(student, teacher, temperature)) == pytest.approx(expected * temperature**2, rel=1e-5)
    assert float(patch_kl(teacher, teacher, temperature)) == pytest.approx(0.0, abs=1e-6)


def test_negative_cosine_is_minus_the_number_of_tiles_for_parallel_states():
    states = _draw(3, 5, 8)
    assert float(negative_cosine(4.0 * states, states)) == pytest.approx(-3.0, rel=1e-5)
    assert float(negative_cosine(-states, states)) == pytest.approx(3.0, rel=1e-5)
