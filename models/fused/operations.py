"""The operations that are fused, as plain functions of tensors, to be compiled and to be compared with.

Shape suffixes: N tokens, H heads, K key-value heads, D width (of a head for rotary embeddings), M label tokens,
V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

KernelName = Literal["liger", "compile", "plain"]


@dataclass(frozen=True, kw_only=True)
class Operations:
    """An implementation of the operations.

    Attributes:
        name: which one; `plain` leaves layers as they are.
        rms_norm: hidden states [..., D], weight [D] and epsilon to the weighted states over their root mean square.
        swiglu: gate and up projections [..., D] to silu(gate) * up.
        rotary: query [1, H, N, D], key [1, K, N, D], cosines and sines [1, N, D] to the rotated query and key.
        cross_entropy: logits [M, V] and targets, int64 [M], to the loss of each, float32 or finer.
        announcement: one line that says what was chosen and why.
    """

    name: KernelName
    rms_norm: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    swiglu: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    rotary: Callable[
        [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
        tuple[torch.Tensor, torch.Tensor],
    ]
    cross_entropy: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    announcement: str = ""


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm (arXiv 1910.07467) of states [..., D] with a weight [D], in float32 or finer up to its end."""
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (wide * scale * weight).to(hidden.dtype)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SwiGLU (arXiv 2002.05202) of gate and up [..., D], without its projections."""
    return functional.silu(gate) * up


def rotary(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary embeddings (arXiv 2104.09864) in Llama's form: the second half of a head is the first one's partner.

    Args:
        query, key: [1, H, N, D] and [1, K, N, D].
        cos, sin: [1, N, D].

    Returns:
        both, turned.
    """
    cos, sin = cos[:, None], sin[:, None]
    return query * cos + _turned(query) * sin, key * cos + _turned(key) * sin


def cross_entropy(logits_MV: torch.Tensor, targets_M: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row, in float32, or in float64 where the logits are."""
    wide_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
    return functional.cross_entropy(wide_MV, targets_M, reduction="none")


def _turned(states: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


PLAIN = Operations(name="plain", rms_norm=rms_norm, swiglu=swiglu, rotary=rotary, cross_entropy=cross_entropy)
"""Not compiled."""
