"""Answers of two towers through one frozen language model, against whole models and torch's own divergence."""

import copy

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from models.answer_head import AnswerHead, answer_head
from models.blanks import stored_vlm
from models.loading import fill
from models.packed_vlm import PackedVLM
from models.saving import save_model
from models.vision import patch_features
from tests.unit.models.tiny import TinyPack, tiny_pack, tiny_vlm

TEMPERATURE = 2.0


@pytest.fixture(scope="module")
def pack() -> TinyPack:
    return tiny_pack((2, 1), ((9, 4, 13), (7,)))


def features(vlm, pack: TinyPack) -> torch.Tensor:
    with torch.no_grad():
        return patch_features(vlm.model.vision_tower, pack.pixels, 1)[0][:, 1:]


def asked(head: AnswerHead, student: torch.Tensor, teacher: torch.Tensor, pack: TinyPack, **more):
    where = (pack.input_ids, pack.position_ids, pack.layout, pack.label_positions, TEMPERATURE)
    return head(student, teacher, *where, **more)


def other_tower(vlm):
    """The same model with another tower."""
    changed = copy.deepcopy(vlm)
    changed.model.vision_tower.load_state_dict(tiny_vlm(seed=9).model.vision_tower.state_dict())
    return changed


@torch.no_grad()
def test_divergences_are_those_of_whole_models_with_the_two_towers(pack):
    vlm = tiny_vlm()
    student = other_tower(vlm)

    def log_probabilities(model):
        where = (pack.input_ids, pack.position_ids, pack.pixels, pack.layout, pack.label_positions)
        return log_softmax(PackedVLM(copy.deepcopy(model))(*where) / TEMPERATURE, dim=-1)

    expected = kl_div(log_probabilities(student), log_probabilities(vlm), reduction="none", log_target=True).sum(-1)
    got = asked(AnswerHead(vlm), features(student, pack), features(vlm, pack), pack)
    assert expected.max() > 1e-3
    assert torch.allclose(got.divergences, expected * TEMPERATURE**2, rtol=1e-3, atol=1e-6)
    same = log_probabilities(student).argmax(-1) == log_probabilities(vlm).argmax(-1)
    assert torch.equal(got.agreed, same)


def test_gradients_pass_through_to_the_student_alone(pack):
    vlm = tiny_vlm()
    head = AnswerHead(vlm)
    head.train()
    assert not any(module.training for module in head.modules())
    teacher = features(vlm, pack).requires_grad_()
    student = features(other_tower(vlm), pack).requires_grad_()
    asked(head, student, teacher, pack).divergences.sum().backward()
    assert student.grad.abs().amax(dim=(1, 2)).min() > 0
    assert teacher.grad is None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in head.parameters())


def test_equal_features_have_no_divergence(pack):
    vlm = tiny_vlm()
    got = asked(AnswerHead(vlm), features(vlm, pack), features(vlm, pack), pack)
    assert got.divergences.abs().max() == 0
    assert got.agreed.all()


def test_parts_of_the_head_give_the_same(pack):
    vlm = tiny_vlm()
    head, teacher = AnswerHead(vlm), features(vlm, pack)
    whole, parts = (features(other_tower(vlm), pack).requires_grad_() for _ in range(2))
    one, many = asked(head, whole, teacher, pack), asked(head, parts, teacher, pack, head_chunks=3)
    assert torch.allclose(one.divergences, many.divergences, atol=1e-6)
    one.divergences.sum().backward()
    many.divergences.sum().backward()
    assert torch.allclose(whole.grad, parts.grad, atol=1e-6)


def test_a_dummy_tile_counts_zero_times_and_keeps_the_graph(pack):
    head = AnswerHead(tiny_vlm())
    tile = torch.randn(1, 64, 96, generator=torch.Generator().manual_seed(0)).requires_grad_()
    words = torch.tensor([5, 6, 7, 8])
    layout = tiny_pack((0,), ((4,),)).layout
    ids = torch.cat([words, words, words])[:9]  # five words of prefix, four of its segment
    got = head(tile, tile.detach(), ids, torch.arange(len(ids)), layout, torch.tensor([6, 7]), 1.0, True)
    got.divergences.sum().backward()
    assert tile.grad is not None
    assert tile.grad.abs().max() == 0


def test_tiles_that_do_not_fit_the_image_tokens_are_refused(pack):
    head, seen = AnswerHead(tiny_vlm()), features(tiny_vlm(), pack)
    with pytest.raises(ValueError, match="got 48 image tokens, expected 16 of each of 2 tiles"):
        asked(head, seen[:2], seen[:2], pack)


def test_a_stored_head_holds_no_tower(tmp_path):
    vlm = tiny_vlm()
    save_model(vlm, tmp_path / "vlm")
    head = fill(answer_head(stored_vlm(tmp_path / "vlm")))
    expected = AnswerHead(vlm).state_dict()
    assert head.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in head.state_dict().items())
    assert not any("vision" in name for name in expected)
