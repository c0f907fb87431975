"""Kernels for sequences of different lengths laid end to end: boundaries and tensors in, outputs with their
log-sum-exp, or gradients, out. The low-level functions are called, whose backward takes any output and log-sum-exp.

Shape suffixes: Q query tokens, P key tokens, H query heads, K key-value heads, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from models.transfer import sent


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Sequences of one kernel call; sequence i has queries cu_q[i] to cu_q[i + 1] and keys cu_k[i] to cu_k[i + 1].

    Attributes:
        cu_q, cu_k: int32 [sequences + 1].
        max_q, max_k: longest, as integers of Python: the host never waits for the device to learn them.
        causal: a query sees keys up to its own place; then both have the same boundaries.
    """

    cu_q: torch.Tensor
    cu_k: torch.Tensor
    max_q: int
    max_k: int
    causal: bool

    @classmethod
    def of(cls, lengths_q: list[int], lengths_k: list[int], *, causal: bool) -> "Sequences":
        """Sequences of these lengths, on the CPU."""
        assert len(lengths_q) == len(lengths_k)
        assert min(lengths_q) > 0, "a sequence without queries is left out"
        assert min(lengths_k) > 0, "a sequence without keys is left out"
        assert not causal or lengths_q == lengths_k
        return cls(
            cu_q=_boundaries(lengths_q),
            cu_k=_boundaries(lengths_k),
            max_q=max(lengths_q),
            max_k=max(lengths_k),
            causal=causal,
        )

    def to(self, device: torch.device | str) -> "Sequences":
        """The same sequences with their boundaries on `device`."""
        return replace(self, cu_q=sent(self.cu_q, device), cu_k=sent(self.cu_k, device))


Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class VarlenKernel(Protocol):
    """A forward and a backward pass over sequences, without dropout."""

    def varlen_forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequences, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of q [Q, H, D] over k, v [P, K, D]: a new [Q, H, D], and its log-sum-exp [H, Q] in float32 or
        finer."""
        ...

    def varlen_backward(
        self,
        dout: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        sequences: Sequences,
        scale: float,
    ) -> Gradients:
        """Gradients of q, k and v through these keys, where `out` [Q, H, D] and `lse` [H, Q] may come from more keys
        than these."""
        ...


@dataclass(frozen=True)
class FlashAttention2:
    """flash-attn 2.7 or newer (arXiv 2307.08691), `flash_attn.flash_attn_interface`.

    Attributes:
        forward_op, backward_op: its `_flash_attn_varlen_forward` and `_flash_attn_varlen_backward`.
    """

    forward_op: Callable[..., Any]
    backward_op: Callable[..., Any]

    @classmethod
    def load(cls) -> "FlashAttention2":
        """The installed package.

        Raises:
            ImportError: it is not installed, or was built against another torch.
        """
        from flash_attn import flash_attn_interface

        return cls(flash_attn_interface._flash_attn_varlen_forward, flash_attn_interface._flash_attn_varlen_backward)

    def varlen_forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequences, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `VarlenKernel`."""
        out, lse, *_ = self.forward_op(
            q, k, v, **_boundary_arguments(sequences), dropout_p=0.0, softmax_scale=scale, causal=sequences.causal
        )
        return out, lse

    def varlen_backward(
        self,
        dout: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        sequences: Sequences,
        scale: float,
    ) -> Gradients:
        """See `VarlenKernel`."""
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        self.backward_op(
            dout,
            q,
            k,
            v,
            out,
            lse,
            dq,
            dk,
            dv,
            **_boundary_arguments(sequences),
            dropout_p=0.0,
            softmax_scale=scale,
            causal=sequences.causal,
            window_size_left=-1,
            window_size_right=-1,
            softcap=0.0,
            alibi_slopes=None,
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
        return dq, dk, dv


@dataclass(frozen=True)
class TorchVarlen:
    """The kernels behind `torch.nn.attention.varlen.varlen_attn`, called as it calls them."""

    def varlen_forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequences, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `VarlenKernel`."""
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, *_boundary_arguments(sequences).values(), 0.0, sequences.causal, False, scale=scale
        )
        return out, lse

    def varlen_backward(
        self,
        dout: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        sequences: Sequences,
        scale: float,
    ) -> Gradients:
        """See `VarlenKernel`."""
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
        boundaries = _boundary_arguments(sequences).values()
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            dout, q, k, v, out, lse, *boundaries, 0.0, sequences.causal, *no_dropout, scale=scale
        )
        return dq, dk, dv


def _boundary_arguments(sequences: Sequences) -> dict[str, Any]:
    """Under the names of flash-attn, and in the order of both libraries."""
    return {
        "cu_seqlens_q": sequences.cu_q,
        "cu_seqlens_k": sequences.cu_k,
        "max_seqlen_q": sequences.max_q,
        "max_seqlen_k": sequences.max_k,
    }


def _boundaries(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
