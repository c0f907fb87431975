"""What the kernels of a GPU are asked for: their work is done by the plain kernel on a CPU, behind the interfaces that
torch and flash-attn declare, and compared with attention written down token by token, in float64."""

from functools import partial

import pytest
import torch
from torch.library import _scoped_library

from models.attention.base import Backend
from models.attention.kernels import FlashAttention2, Sequences, TorchVarlen
from models.attention.two_pass import TwoPassPlan
from tests.gpu.reference import Case, random_case, reference, with_gradients
from tests.helpers.plain_kernel import PlainKernel

PLAIN = PlainKernel()
CASES = [Case(lengths=((11, (4, 6, 3)), (7, (2, 9)), (5, (1, 1, 1, 8)))), *map(random_case, range(5))]
SCALES = [0.3, None]


def two_pass(kernel) -> Backend:
    return Backend(name="varlen", vision="sdpa", plan=partial(TwoPassPlan.of, kernel=kernel), announcement="")


def difference(case, kernel, scale):
    """Largest one to the reference in output and gradients."""
    query, key, value, grad = case.states(seed=2)
    plan = case.layout(two_pass(kernel)).plan
    used = case.head_dim**-0.5 if scale is None else scale
    expected = with_gradients(lambda *qkv: reference(case, *qkv, used), query, key, value, grad)
    ours = with_gradients(lambda *qkv: plan.attend(*qkv, scale=scale, dropout=0.0), query, key, value, grad)
    return max(float((got - wanted).abs().max()) for got, wanted in zip(ours, expected, strict=True))


def _aten_forward(
    query,
    key,
    value,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    return_debug_mask,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
):
    assert (dropout_p, return_debug_mask, window_size_left, window_size_right) == (0.0, False, None, None)
    sequences = Sequences(cu_q=cum_seq_q, cu_k=cum_seq_k, max_q=max_q, max_k=max_k, causal=is_causal)
    out, lse = PLAIN.varlen_forward(query, key, value, sequences, query.shape[-1] ** -0.5 if scale is None else scale)
    return out, lse, torch.zeros(2, dtype=torch.uint64), torch.empty(0), torch.empty(0)


def _aten_backward(
    grad_out,
    query,
    key,
    value,
    out,
    logsumexp,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    rng_state,
    unused,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
):
    assert (dropout_p, window_size_left, window_size_right) == (0.0, None, None)
    assert (rng_state.dtype, rng_state.shape) == (torch.uint64, (2,))
    sequences = Sequences(cu_q=cum_seq_q, cu_k=cum_seq_k, max_q=max_q, max_k=max_k, causal=is_causal)
    used = query.shape[-1] ** -0.5 if scale is None else scale
    return PLAIN.varlen_backward(grad_out, query, key, value, out, logsumexp, sequences, used)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_torchs_kernels_are_asked_for_the_attention_of_the_pack(case, scale):
    """Torch has them for GPUs alone; here its dispatcher finds the plain kernel behind its own schemas."""
    with _scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", _aten_forward, "CPU")
        library.impl("_flash_attention_backward", _aten_backward, "CPU")
        assert difference(case, TorchVarlen(), scale) < 1e-12


def test_torch_varlen_is_called_as_the_installed_torch_declares_it():
    """Shapes only, on the meta device, in 16 bits."""
    case = Case(lengths=((11, (4, 6, 3)), (7, (2, 9))), heads=4, kv_heads=2, head_dim=64)
    layout = case.layout(two_pass(TorchVarlen())).to("meta")
    query, key, value, grad = (states.to("meta", torch.bfloat16) for states in case.states())
    out, *gradients = with_gradients(
        lambda *qkv: layout.plan.attend(*qkv, scale=0.3, dropout=0.0), query, key, value, grad
    )
    assert out.shape == grad.shape
    assert [states.shape for states in gradients] == [query.shape, key.shape, value.shape]


class _FlashAttnInterface:
    """The low-level functions of flash-attn as of 2.8.3.

    Attributes:
        deterministic: whether the last backward pass was asked to be so.
    """

    deterministic: bool | None = None

    def forward(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal
    ):
        # further arguments have defaults
        assert dropout_p == 0.0
        sequences = Sequences(
            cu_q=cu_seqlens_q, cu_k=cu_seqlens_k, max_q=max_seqlen_q, max_k=max_seqlen_k, causal=causal
        )
        return *PLAIN.varlen_forward(q, k, v, sequences, softmax_scale), torch.empty(0), torch.empty(2)

    def backward(
        self,
        dout,
        q,
        k,
        v,
        out,
        softmax_lse,
        dq,
        dk,
        dv,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p,
        softmax_scale,
        causal,
        window_size_left,
        window_size_right,
        softcap,
        alibi_slopes,
        deterministic,
        rng_state=None,
        zero_tensors=False,
    ):
        assert dropout_p == 0.0
        assert (window_size_left, window_size_right, softcap, alibi_slopes) == (-1, -1, 0.0, None)
        assert (rng_state, zero_tensors) == (None, False)
        self.deterministic = deterministic
        sequences = Sequences(
            cu_q=cu_seqlens_q, cu_k=cu_seqlens_k, max_q=max_seqlen_q, max_k=max_seqlen_k, causal=causal
        )
        gradients = PLAIN.varlen_backward(dout, q, k, v, out, softmax_lse, sequences, softmax_scale)
        for place, gradient in zip((dq, dk, dv), gradients, strict=True):
            place.copy_(gradient)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_flash_attention_is_asked_for_the_attention_of_the_pack(case, scale):
    package = _FlashAttnInterface()
    assert difference(case, FlashAttention2(package.forward, package.backward), scale) < 1e-12
    assert package.deterministic is False


def test_flash_attention_is_deterministic_where_torch_is():
    package = _FlashAttnInterface()
    torch.use_deterministic_algorithms(True)
    try:
        difference(CASES[0], FlashAttention2(package.forward, package.backward), None)
    finally:
        torch.use_deterministic_algorithms(False)
    assert package.deterministic is True
