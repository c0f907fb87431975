"""The two-pass algorithm: merged output and gradients against attention written down token by token, in float64."""

from functools import partial

import pytest
import torch

from models.attention import AttentionError, pack_layout
from models.attention.base import Backend
from models.attention.kernels import Sequences
from models.attention.two_pass import TwoPassPlan
from models.checkpointing import checkpoint_layers
from models.packed_vlm import PackedVLM
from tests.gpu.reference import Case, random_case, reference, with_gradients
from tests.helpers.plain_kernel import PlainKernel
from tests.unit.models.tiny import tiny_pack, tiny_vlm


def two_pass(kernel) -> Backend:
    return Backend(name="varlen", vision="sdpa", plan=partial(TwoPassPlan.of, kernel=kernel), announcement="")


PLAIN = two_pass(PlainKernel())
CASES = {
    "several prefixes": Case(lengths=((11, (4, 6, 3)), (7, (2, 9)), (5, (1, 1, 1, 8)))),
    "a prefix without a question": Case(lengths=((6, (3, 4)), (9, ()), (5, (2,)))),
    "text only": Case(lengths=((0, (7, 4, 5)), (8, (3, 3)))),
    "nothing but text": Case(lengths=((0, (7,)),)),
    "one question a prefix": Case(lengths=((9, (4,)), (12, (6,)))),
    "one key-value head": Case(lengths=((8, (3, 5)),), heads=6, kv_heads=1),
    "no grouping": Case(lengths=((8, (3, 5)),), heads=3, kv_heads=3),
    "head dim 64": Case(lengths=((13, (3, 5, 2)), (3, (2, 2))), head_dim=64),
}


def compare(case: Case, backend: Backend, *, seed: int) -> float:
    """Largest difference to the reference in output and gradients."""
    query, key, value, grad = case.states(seed)
    layout = case.layout(backend)
    expected = with_gradients(lambda *qkv: reference(case, *qkv, 0.3), query, key, value, grad)
    ours = with_gradients(lambda *qkv: layout.plan.attend(*qkv, scale=0.3, dropout=0.0), query, key, value, grad)
    return max(float((got - wanted).abs().max()) for got, wanted in zip(ours, expected, strict=True))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_output_and_gradients_equal_the_reference(case):
    assert compare(case, PLAIN, seed=1) < 1e-12


@pytest.mark.parametrize("seed", range(30))
def test_output_and_gradients_equal_the_reference_on_random_packs(seed):
    assert compare(random_case(seed), PLAIN, seed=seed) < 1e-12  # measured 1.4e-14


def test_large_scores_do_not_overflow_the_merge():
    case = CASES["several prefixes"]
    query, key, value, grad = case.states()
    query = query * 1000
    layout = case.layout(PLAIN)
    expected = with_gradients(lambda *qkv: reference(case, *qkv, 0.3), query, key, value, grad)
    ours = with_gradients(lambda *qkv: layout.plan.attend(*qkv, scale=0.3, dropout=0.0), query, key, value, grad)
    for got, wanted in zip(ours, expected, strict=True):
        assert bool(got.isfinite().all())
        assert (got - wanted).abs().max() < 1e-9


def test_the_backward_needs_the_merged_log_sum_exp():
    """A kernel that keeps each pass's own output and log-sum-exp gives other gradients: the comparison can tell."""

    class OwnSoftmax(PlainKernel):
        def varlen_backward(self, dout, q, k, v, out, lse, sequences, scale):
            own_out, own_lse = self.varlen_forward(q, k, v, sequences, scale)
            return super().varlen_backward(dout, q, k, v, own_out, own_lse, sequences, scale)

    assert compare(CASES["several prefixes"], two_pass(OwnSoftmax()), seed=1) > 1e-2
    assert compare(CASES["one question a prefix"], two_pass(OwnSoftmax()), seed=1) < 1e-12


def test_one_question_a_prefix_needs_one_pass():
    plan = CASES["one question a prefix"].layout(PLAIN).plan
    assert isinstance(plan, TwoPassPlan)
    assert plan.second is None
    assert plan.first.cu_q.tolist() == [0, 13, 31]
    assert (plan.first.max_q, plan.first.max_k) == (18, 18)


def test_passes_cover_every_visible_pair_once():
    case = CASES["a prefix without a question"]
    plan = case.layout(PLAIN).plan
    assert plan.first.cu_q.tolist() == [0, 9, 13, 22, 29]
    assert plan.second.queries.tolist() == [9, 10, 11, 12]
    assert plan.second.keys.tolist() == list(range(6))
    assert plan.first.cu_q.dtype == plan.second.sequences.cu_k.dtype == torch.int32


def test_the_scale_is_that_of_the_head_dim_unless_given():
    case = CASES["head dim 64"]
    query, key, value, _ = case.states()
    plan = case.layout(PLAIN).plan
    default, given = (plan.attend(query, key, value, scale=scale, dropout=0.0) for scale in (None, 0.125))
    assert torch.equal(default, given)


def test_dropout_is_refused():
    case = CASES["several prefixes"]
    with pytest.raises(AttentionError, match=r"attention_dropout: got 0.1, expected 0.0"):
        case.layout(PLAIN).plan.attend(*case.states()[:3], scale=None, dropout=0.1)


def test_the_kernels_agree_with_autograd_on_a_plain_softmax():
    generator = torch.Generator().manual_seed(0)
    q, k, v, dout = (torch.randn(7, 2, 4, generator=generator, dtype=torch.float64) for _ in range(4))
    leaves = [states.clone().requires_grad_() for states in (q, k, v)]
    sequences = Sequences.of([3, 4], [5, 2], causal=False)
    outs = [
        ((leaves[0][a].transpose(0, 1) @ leaves[1][b].permute(1, 2, 0)).softmax(-1) @ leaves[2][b].transpose(0, 1))
        for a, b in ((slice(0, 3), slice(0, 5)), (slice(3, 7), slice(5, 7)))
    ]
    expected = torch.cat(outs, dim=1).transpose(0, 1)
    out, lse = PlainKernel().varlen_forward(q, k, v, sequences, 1.0)
    assert (out - expected).abs().max() < 1e-14
    gradients = PlainKernel().varlen_backward(dout, q, k, v, out, lse, sequences, 1.0)
    for got, wanted in zip(gradients, torch.autograd.grad(expected, leaves, dout), strict=True):
        assert (got - wanted).abs().max() < 1e-13


def test_a_whole_model_trains_alike_under_sdpa_and_in_two_passes_with_checkpointed_activations():
    pack = tiny_pack((1, 2), ((5, 9, 4), (7, 6)))
    found = []
    for backend, checkpoint in ((None, False), (PLAIN, True)):
        wrapper = PackedVLM(tiny_vlm().double())
        if checkpoint:
            checkpoint_layers([*wrapper.vlm.model.vision_tower.encoder.layer, *wrapper.vlm.model.language_model.layers])
        layout = pack_layout(pack.groups, pack.segment_ids, backend)
        logits = wrapper(
            pack.input_ids, pack.position_ids, pack.pixels.double(), layout, pack.label_positions, dummy_tile=False
        )
        logits.pow(2).mean().backward()
        found.append([logits.detach(), *(parameter.grad for parameter in wrapper.parameters())])
    for stock, ours in zip(*found, strict=True):
        assert (stock - ours).abs().max() < 1e-5 * stock.abs().max()  # norms and rotary embeddings are in float32
