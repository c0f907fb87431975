"""The pack layout, its registration and the SDPA backend, against attention written down token by token."""

from dataclasses import replace

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from models.attention import PACK_ATTENTION, Backend, pack_attention, pack_layout, register_pack_attention
from models.attention.sdpa import SdpaPlan
from tests.gpu.reference import Case, random_case, reference, with_gradients

GROUPS = ((0, 9), (9, 13), (13, 20))
SEGMENT_IDS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("seed", range(30))
def test_sdpa_and_its_gradients_equal_the_reference_token_by_token(seed):
    case = random_case(seed)
    layout = case.layout()
    query, key, value, grad = case.states(seed)
    expected = with_gradients(lambda *qkv: reference(case, *qkv, 0.3), query, key, value, grad)
    ours = with_gradients(
        lambda *qkv: pack_attention(torch.nn.Module(), *qkv, None, scaling=0.3, pack_layout=layout)[0],
        query,
        key,
        value,
        grad,
    )
    for got, wanted in zip(ours, expected, strict=True):
        assert (got - wanted).abs().max() < 1e-12  # measured 2.0e-14


def test_the_layout_knows_prefixes_and_segments():
    layout = pack_layout(GROUPS, SEGMENT_IDS)
    assert layout.prefix_lengths == (3, 4, 0)
    assert layout.segment_lengths == ((2, 3, 1), (), (3, 2, 2))


def test_numbers_without_a_token_are_no_segments():
    layout = pack_layout(((0, 5),), torch.tensor([0, 0, 2, 2, 5]))
    assert layout.segment_lengths == ((2, 1),)


def test_long_groups_are_attended_in_runs_of_whole_segments():
    case = Case(lengths=((40, (50, 70, 20, 300, 5, 128)),), heads=2, kv_heads=2)
    layout = case.layout()
    plan = layout.plan
    assert isinstance(plan, SdpaPlan)
    assert [(run.start, run.end) for run in plan.runs[0]] == [
        (40, 160),
        (160, 180),
        (180, 480),
        (480, 485),
        (485, 613),
    ]
    assert plan.piece_lengths == [40, 120, 20, 300, 5, 128]

    query, key, value, _ = case.states()
    ids = case.segment_ids
    order = torch.arange(len(ids))
    mask = ((ids == 0) | (ids[:, None] == ids)) & (order <= order[:, None])
    weights = (query @ key.transpose(2, 3)).masked_fill(~mask, float("-inf")).softmax(-1)
    out, _ = pack_attention(torch.nn.Module(), query, key, value, None, scaling=1.0, pack_layout=layout)
    assert (out - (weights @ value).transpose(1, 2)).abs().max() < 1e-13


def test_the_layout_brings_its_backend_along():
    class Zeros:
        def to(self, device):
            return Zeros()

        def attend(self, query, key, value, *, scale, dropout):
            return torch.zeros_like(query.transpose(1, 2))

    backend = Backend(name="sdpa", vision="sdpa", plan=lambda groups: Zeros(), announcement="")
    case = Case(lengths=((4, (3, 2)),))
    query, key, value, _ = case.states()
    layout = case.layout(backend).to("cpu")
    out, _ = pack_attention(torch.nn.Module(), query, key, value, None, pack_layout=layout)
    assert not out.any()
    stock, _ = pack_attention(torch.nn.Module(), query, key, value, None, pack_layout=replace(case.layout()))
    assert stock.any()


def test_registering_twice_is_harmless():
    register_pack_attention()
    register_pack_attention()
    assert ALL_ATTENTION_FUNCTIONS[PACK_ATTENTION] is pack_attention


@pytest.mark.parametrize("groups", [((0, 5),), ((0, 9), (10, 20)), ((0, 9), (8, 20))])
def test_groups_that_do_not_cover_the_pack_are_refused(groups):
    with pytest.raises(AssertionError, match="groups"):
        pack_layout(groups, SEGMENT_IDS)


def test_a_prefix_after_its_segments_is_refused():
    with pytest.raises(AssertionError, match="segment ids fall"):
        pack_layout(((0, 4),), torch.tensor([0, 1, 0, 1]))
