"""FlexAttention's block mask, pair by pair, and its forward pass on the CPU; gradients are checked on a GPU."""

import pytest
import torch

from models.attention import AttentionError, choose_backend
from models.attention.base import Group
from models.attention.flex import BLOCK, FlexPlan, Ranges
from tests.gpu.reference import Case, random_case, reference

LONG = Case(lengths=((300, (90, 40, 5, 130)), (0, (20, 30)), (140, ()), (77, (60,))))


def ranges_of(case: Case) -> Ranges:
    return Ranges.of(
        [
            Group(start=start, prefix=prefix, segments=segments)
            for (start, _), (prefix, segments) in zip(case.groups, case.lengths, strict=True)
        ]
    )


def visible(case: Case) -> torch.Tensor:
    """bool [N, N], from the rule for each token."""
    tokens = case.groups[-1][1]
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for row in range(tokens):
        mask[row, case.sees(row)] = True
    return mask


def by_blocks(mask: torch.Tensor) -> torch.Tensor:
    """Visible pairs in each block, [B, B]."""
    missing = -len(mask) % BLOCK
    padded = torch.nn.functional.pad(mask.long(), (0, missing, 0, missing))
    return padded.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK)).sum(dim=(1, 3))


@pytest.mark.parametrize("case", [LONG, *(random_case(seed) for seed in range(10))])
def test_the_mask_function_sees_what_the_rule_sees(case):
    order = torch.arange(case.groups[-1][1])
    seen = ranges_of(case).mask()(torch.tensor(0), torch.tensor(0), order[:, None], order)
    assert torch.equal(seen, visible(case))


def test_pairs_are_counted_block_by_block():
    expected = by_blocks(visible(LONG))
    assert (expected == BLOCK * BLOCK).any()
    assert (expected == 0).tril().any()
    assert torch.equal(ranges_of(LONG).pairs(), expected)


def test_blocks_are_empty_full_or_masked():
    expected = by_blocks(visible(LONG))
    mask = ranges_of(LONG).block_mask()
    partial, full = torch.zeros_like(expected), torch.zeros_like(expected)
    for row in range(len(expected)):
        partial[row, mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]].long()] = 1
        full[row, mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].long()] = 1
    assert torch.equal(full.bool(), expected == BLOCK * BLOCK)
    assert torch.equal(partial.bool(), (expected > 0) & (expected < BLOCK * BLOCK))
    assert mask.shape[-2:] == (LONG.groups[-1][1],) * 2


@pytest.mark.parametrize("case", [LONG, random_case(3), random_case(11)], ids=["long", "random", "another"])
def test_the_forward_pass_equals_the_reference(case):
    backend = choose_backend("flex", torch.device("cpu"), torch.float64, case.head_dim, training=False)
    query, key, value, _ = case.states()
    out = case.layout(backend).plan.attend(query, key, value, scale=0.3, dropout=0.0)
    assert (out - reference(case, query, key, value, 0.3)).abs().max() < 1e-12


def test_moving_a_plan_moves_what_its_mask_function_holds():
    plan = FlexPlan.of([Group(start=0, prefix=3, segments=(2,))]).to("meta")
    held = [cell.cell_contents for cell in plan.block_mask.mask_mod.__closure__]
    assert len(held) == 3
    assert all(states.device.type == "meta" for states in (*held, plan.block_mask.kv_indices))


def test_training_on_the_cpu_is_refused():
    case = Case(lengths=((4, (3, 2)),))
    plan = FlexPlan.of([Group(start=0, prefix=4, segments=(3, 2))])
    query, key, value, _ = case.states()
    with pytest.raises(AttentionError, match="got flex for training on the CPU, expected sdpa"):
        plan.attend(query.requires_grad_(), key, value, scale=None, dropout=0.0)
