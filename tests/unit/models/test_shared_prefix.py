"""The decoding step's attention against a softmax written row by row."""

import pytest
import torch
from torch import nn

from models.shared_prefix import Prefixes, prefix_attention


def module() -> nn.Module:
    layer = nn.Module()
    layer.layer_idx = 1
    return layer


def test_each_row_attends_to_its_prefix_and_its_own_tokens():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lengths, owner = (5, 3), torch.tensor([0, 0, 0, 1])
    prefix_k, prefix_v = normal(2, 2, 5, 8), normal(2, 2, 5, 8)
    own_k, own_v, query = normal(4, 2, 6, 8), normal(4, 2, 6, 8), normal(4, 4, 1, 8)
    own_visible = torch.tensor([[i >= 6 - n for i in range(6)] for n in (6, 2, 4, 1)])
    prefixes = Prefixes(
        keys=(torch.zeros(()), prefix_k),
        values=(torch.zeros(()), prefix_v),
        visible=torch.tensor([[i < n for i in range(5)] for n in lengths]),
    )
    slots = (torch.tensor([0, 1, 2, 3]), 3)  # two lines of three places; the second prefix has one row
    out, _ = prefix_attention(
        module(), query, own_k, own_v, None, scaling=0.5, prefixes=prefixes, slots=slots, own_visible=own_visible
    )
    for row in range(4):
        p, seen = owner[row], own_visible[row]
        keys = torch.cat([prefix_k[p, :, : lengths[p]], own_k[row][:, seen]], dim=1).repeat_interleave(2, dim=0)
        values = torch.cat([prefix_v[p, :, : lengths[p]], own_v[row][:, seen]], dim=1).repeat_interleave(2, dim=0)
        weights = (query[row] @ keys.transpose(1, 2) * 0.5).softmax(-1)
        assert (out[row, 0] - (weights @ values)[:, 0]).abs().max() < 1e-13


def test_a_call_without_prefixes_is_refused():
    states = torch.zeros(1, 1, 1, 4)
    with pytest.raises(AssertionError, match="without prefixes"):
        prefix_attention(module(), states, states, states, None, scaling=1.0)
