"""Shared-prefix packs by kernels that know only plain sequences: groups and a kernel in, attention in two passes out.

Pass one runs every prefix with its group's first segment, and every further segment alone, each as one causal sequence;
pass two runs the further segments over their prefix, all of it visible. A pack of one question a prefix therefore needs
the first pass only. The two are merged by their log-sum-exp:

    lse = log(exp(lse_1) + exp(lse_2)),    out = exp(lse_1 - lse) out_1 + exp(lse_2 - lse) out_2

A kernel's backward needs of the softmax nothing but its output and log-sum-exp: weights exp(s - lse), and row sums of
dout * out. Handed the merged ones, each pass gives exactly its keys' share of the gradients of the whole softmax, and
the shares add up.

Shape suffixes: N tokens of a pack, F tokens of further segments, P tokens of their prefixes, H query heads, K key-value
heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from models.attention.base import Group, refuse_dropout
from models.attention.kernels import Sequences, VarlenKernel
from models.transfer import sent


@dataclass(frozen=True, kw_only=True)
class SecondPass:
    """Further segments over their prefixes.

    Attributes:
        sequences: one for each group of two or more segments.
        queries: int64 [F], the further segments' tokens in the pack.
        keys: int64 [P], their prefixes' tokens.
    """

    sequences: Sequences
    queries: torch.Tensor
    keys: torch.Tensor

    def to(self, device: torch.device | str) -> "SecondPass":
        """The same pass with its tensors on `device`."""
        return SecondPass(
            sequences=self.sequences.to(device),
            queries=sent(self.queries, device),
            keys=sent(self.keys, device),
        )


@dataclass(frozen=True, kw_only=True)
class TwoPassPlan:
    """Both passes of a pack, and the kernel that runs them."""

    kernel: VarlenKernel
    first: Sequences
    second: SecondPass | None

    @classmethod
    def of(cls, groups: Sequence[Group], kernel: VarlenKernel) -> "TwoPassPlan":
        """The plan of a pack."""
        own: list[int] = []
        for group in groups:
            own += [group.prefix + sum(group.segments[:1]), *group.segments[1:]]
        return cls(kernel=kernel, first=Sequences.of(own, own, causal=True), second=_second_pass(groups))

    def to(self, device: torch.device | str) -> "TwoPassPlan":
        """The same plan with its tensors on `device`."""
        second = None if self.second is None else self.second.to(device)
        return replace(self, first=self.first.to(device), second=second)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None, dropout: float
    ) -> torch.Tensor:
        """See `models.attention.base.Plan.attend`."""
        refuse_dropout(dropout)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        states = (states[0].transpose(0, 1) for states in (query, key, value))
        out: torch.Tensor = _TwoPass.apply(*states, self, scale)
        return out[None]


def _second_pass(groups: Sequence[Group]) -> SecondPass | None:
    shared = [group for group in groups if group.prefix and len(group.segments) > 1]
    if not shared:
        return None
    further = [group.start + group.prefix + group.segments[0] for group in shared]
    queries = [torch.arange(start, group.end) for start, group in zip(further, shared, strict=True)]
    keys = [torch.arange(group.start, group.start + group.prefix) for group in shared]
    sequences = Sequences.of([len(rows) for rows in queries], [len(rows) for rows in keys], causal=False)
    return SecondPass(sequences=sequences, queries=torch.cat(queries), keys=torch.cat(keys))


class _TwoPass(torch.autograd.Function):
    """Query [N, H, D], key and value [N, K, D], a plan and a scale in, [N, H, D] out."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: TwoPassPlan, scale: float
    ) -> torch.Tensor:
        out, lse = plan.kernel.varlen_forward(q, k, v, plan.first, scale)
        if plan.second is not None:
            rows, keys = plan.second.queries, plan.second.keys
            over_prefix = plan.kernel.varlen_forward(
                q.index_select(0, rows),
                k.index_select(0, keys),
                v.index_select(0, keys),
                plan.second.sequences,
                scale,
            )
            merged, merged_lse = _merge(out.index_select(0, rows), lse.index_select(1, rows), *over_prefix)
            out.index_copy_(0, rows, merged)
            lse.index_copy_(1, rows, merged_lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        kernel, second = ctx.plan.kernel, ctx.plan.second
        dout = dout.contiguous()
        dq, dk, dv = kernel.varlen_backward(dout, q, k, v, out, lse, ctx.plan.first, ctx.scale)
        if second is not None:
            rows, keys = second.queries, second.keys
            parts = kernel.varlen_backward(
                dout.index_select(0, rows),
                q.index_select(0, rows),
                k.index_select(0, keys),
                v.index_select(0, keys),
                out.index_select(0, rows),
                lse.index_select(1, rows),
                second.sequences,
                ctx.scale,
            )
            for whole, part, places in zip((dq, dk, dv), parts, (rows, keys, keys), strict=True):
                whole.index_copy_(0, places, whole.index_select(0, places) + part)
        return dq, dk, dv, None, None


def _merge(
    out_FHD: torch.Tensor, lse_HF: torch.Tensor, other_FHD: torch.Tensor, other_lse_HF: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp over both sets of keys; weighed in float32 or finer."""
    merged_HF = torch.logaddexp(lse_HF, other_lse_HF)
    weight_FH1 = (lse_HF - merged_HF).exp().T[..., None]
    other_weight_FH1 = (other_lse_HF - merged_HF).exp().T[..., None]
    return (out_FHD * weight_FH1 + other_FHD * other_weight_FH1).to(out_FHD.dtype), merged_HF
