"""Losses against definitions written out."""

import pytest
import torch

from trainer.losses import negative_cosine, patch_kl, top_patch_kl
from trainer.targets.teach import likeliest


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
    assert float(patch_kl(student, teacher, temperature).sum()) == pytest.approx(expected * temperature**2, rel=1e-5)
    assert float(patch_kl(teacher, teacher, temperature).sum()) == pytest.approx(0.0, abs=1e-6)


def test_negative_cosine_is_minus_one_for_a_tile_of_parallel_states():
    states = _draw(3, 5, 8)
    signs = torch.tensor([4.0, -1.0, 0.5])
    assert negative_cosine(signs[:, None, None] * states, states).tolist() == pytest.approx([-1.0, 1.0, -1.0], rel=1e-5)


def test_the_loss_of_a_tile_does_not_depend_on_the_others():
    student, teacher = _draw(3, 4, 6), _draw(3, 4, 6, seed=1)
    kept = _kept(teacher, 2, 1.0)
    for loss in (
        lambda tiles: patch_kl(student[tiles], teacher[tiles], 2.0),
        lambda tiles: top_patch_kl(student[tiles], *(part[tiles] for part in kept), 2.0),
        lambda tiles: negative_cosine(student[tiles], teacher[tiles]),
    ):
        alone = [float(loss([tile])) for tile in range(3)]
        assert loss([0, 1, 2]).tolist() == pytest.approx(alone, rel=1e-6)
        assert len(set(alone)) == 3


def _kept(teacher: torch.Tensor, top_k: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    values, indices = likeliest(torch.log_softmax(teacher / temperature, dim=-1), top_k)
    return torch.from_numpy(values), None if indices is None else torch.from_numpy(indices).long()


def test_top_patch_kl_is_that_of_the_kept_entries_and_one_for_the_others():
    student, teacher, temperature = _draw(2, 3, 7), _draw(2, 3, 7, seed=1), 1.5
    expected = 0.0
    for tile in range(2):
        for patch in range(3):
            p = torch.softmax(teacher[tile, patch].double() / temperature, -1)
            q = torch.softmax(student[tile, patch].double() / temperature, -1)
            best = p.argsort(descending=True)[:4]
            p, q = (torch.cat([x[best], 1 - x[best].sum(0, keepdim=True)]) for x in (p, q))
            expected += float((p * (p / q).log()).sum()) / 3
    values, indices = _kept(teacher, 4, temperature)
    assert values.shape == (2, 3, 5)
    assert values.dtype == torch.float16
    assert float(top_patch_kl(student, values, indices, temperature).sum()) == pytest.approx(
        expected * temperature**2, rel=2e-3
    )


def test_all_entries_kept_give_patch_kl_up_to_half_precision():
    student, teacher = _draw(2, 3, 7), _draw(2, 3, 7, seed=1)
    values, indices = _kept(teacher, 0, 1.0)
    assert indices is None
    assert float(top_patch_kl(student, values, None, 1.0).sum()) == pytest.approx(
        float(patch_kl(student, teacher, 1.0).sum()), rel=1e-3
    )


def test_fewer_entries_never_raise_the_divergence_and_keep_its_gradient_finite():
    student, teacher = 4 * _draw(2, 3, 40), 4 * _draw(2, 3, 40, seed=1)
    losses = []
    for top_k in (1, 4, 16, 39):
        own = student.clone().requires_grad_()
        loss = top_patch_kl(own, *_kept(teacher, top_k, 1.0), 1.0).sum()
        loss.backward()
        assert own.grad.isfinite().all()
        losses.append(loss.item())
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx(patch_kl(student, teacher, 1.0).sum().item(), rel=1e-3)
