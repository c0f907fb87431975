"""Losses against definitions written out."""

import math

import pytest
import torch

from trainer.losses import cross_entropy_each, cross_entropy_sum, negative_cosine, patch_kl


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_cross_entropy_is_minus_log_probability_times_weight():
    logits, targets, weights = _draw(5, 7), torch.tensor([0, 6, 3, 3, 1]), torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0])
    expected = sum(
        -float(w) * math.log(math.exp(row[t]) / sum(map(math.exp, row)))
        for row, t, w in zip(logits.tolist(), targets.tolist(), weights, strict=True)
    )
    assert float(cross_entropy_sum(logits, targets, weights)) == pytest.approx(expected, rel=1e-5)
    assert cross_entropy_each(logits, targets).shape == (5,)


def test_no_label_tokens_give_zero_with_a_gradient_of_zero():
    hidden = torch.ones(3, requires_grad=True)
    logits = hidden[None].expand(0, 3) * 2.0
    loss = cross_entropy_sum(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(hidden.grad, torch.zeros(3))


def test_bfloat16_logits_are_cast_before_the_softmax():
    logits, targets = _draw(4, 9).bfloat16(), torch.tensor([1, 2, 3, 4])
    assert torch.equal(cross_entropy_each(logits, targets), cross_entropy_each(logits.float(), targets))


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
