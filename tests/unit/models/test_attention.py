"""The pack layout and its attention against a mask written down pair by pair."""

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from models.attention import PACK_ATTENTION, pack_attention, pack_layout, register_pack_attention

GROUPS = ((0, 9), (9, 13), (13, 20))
SEGMENT_IDS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3])


def visible(row: int, column: int) -> bool:
    """The rule itself, for one pair of tokens."""
    start, end = next(group for group in GROUPS if group[0] <= row < group[1])
    same_group = start <= column < end
    return same_group and column <= row and int(SEGMENT_IDS[column]) in (0, int(SEGMENT_IDS[row]))


def test_attention_equals_a_mask_written_pair_by_pair():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 20, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 1, 2, 20, 8, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[visible(row, column) for column in range(20)] for row in range(20)])
    scores = query @ key.repeat_interleave(2, dim=1).transpose(2, 3) * 0.3
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    expected = (weights @ value.repeat_interleave(2, dim=1)).transpose(1, 2)

    layout = pack_layout(GROUPS, SEGMENT_IDS)
    out, _ = pack_attention(torch.nn.Module(), query, key, value, None, scaling=0.3, pack_layout=layout)
    assert layout.prefix_lengths == (3, 4, 0)
    assert (out - expected).abs().max() < 1e-14  # measured 6.7e-16


def test_long_groups_are_attended_in_runs_of_whole_segments():
    lengths = [40, *[50, 70, 20, 300, 5, 128]]
    ids = torch.repeat_interleave(torch.arange(7), torch.tensor(lengths))
    layout = pack_layout(((0, len(ids)),), ids)
    assert [(run.start, run.end) for run in layout.runs[0]] == [
        (40, 160),
        (160, 180),
        (180, 480),
        (480, 485),
        (485, 613),
    ]
    assert layout.piece_lengths == [40, 120, 20, 300, 5, 128]

    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, len(ids), 8, generator=generator, dtype=torch.float64)
    order = torch.arange(len(ids))
    mask = ((ids == 0) | (ids[:, None] == ids)) & (order <= order[:, None])
    weights = (query @ key.transpose(2, 3)).masked_fill(~mask, float("-inf")).softmax(-1)
    out, _ = pack_attention(torch.nn.Module(), query, key, value, None, scaling=1.0, pack_layout=layout)
    assert (out - (weights @ value).transpose(1, 2)).abs().max() < 1e-13


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
