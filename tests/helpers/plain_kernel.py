"""The kernel interface in plain PyTorch: any device and precision in, float64 results where wanted out.

It loops over sequences and holds their scores; the two-pass algorithm is checked with it where there is no GPU.

Shape suffixes: Q query tokens, P key tokens, H query heads, K key-value heads, D head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from models.attention.kernels import Gradients, Sequences


@dataclass(frozen=True)
class PlainKernel:
    """`VarlenKernel` written out."""

    def varlen_forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequences, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `VarlenKernel`."""
        outs, lses = [], []
        for rows, columns in _slices(sequences):
            scores_HQP = _scores(q[rows], k[columns], sequences, scale)
            lse_HQ = scores_HQP.logsumexp(dim=-1)
            weights_HQP = (scores_HQP - lse_HQ[..., None]).exp()
            outs.append((weights_HQP @ _heads_first(v[columns], q.shape[1])).transpose(0, 1))
            lses.append(lse_HQ)
        return torch.cat(outs), torch.cat(lses, dim=1)

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
        """See `VarlenKernel`; equations of flash-attn 2 (arXiv 2307.08691, algorithm 2) without its tiles."""
        heads, kv_heads = q.shape[1], k.shape[1]
        dqs, dks, dvs = [], [], []
        for rows, columns in _slices(sequences):
            dout_HQD = dout[rows].transpose(0, 1)
            weights_HQP = (_scores(q[rows], k[columns], sequences, scale) - lse[:, rows, None]).exp()
            row_sums_HQ1 = (dout[rows] * out[rows]).sum(dim=-1).T[..., None]
            dweights_HQP = dout_HQD @ _heads_first(v[columns], heads).transpose(1, 2)
            dscores_HQP = weights_HQP * (dweights_HQP - row_sums_HQ1) * scale
            dqs.append((dscores_HQP @ _heads_first(k[columns], heads)).transpose(0, 1))
            dks.append(_tokens_first(dscores_HQP.transpose(1, 2) @ q[rows].transpose(0, 1), kv_heads))
            dvs.append(_tokens_first(weights_HQP.transpose(1, 2) @ dout_HQD, kv_heads))
        return torch.cat(dqs), torch.cat(dks), torch.cat(dvs)


def _slices(sequences: Sequences) -> Iterator[tuple[slice, slice]]:
    for longest, bounds in ((sequences.max_q, sequences.cu_q), (sequences.max_k, sequences.cu_k)):
        assert bounds.dtype == torch.int32
        assert longest == int(bounds.diff().max()), "the kernels of a GPU run as many blocks as the longest has"
    bounds_q, bounds_k = sequences.cu_q.tolist(), sequences.cu_k.tolist()
    for index in range(len(bounds_q) - 1):
        yield slice(*bounds_q[index : index + 2]), slice(*bounds_k[index : index + 2])


def _scores(q_QHD: torch.Tensor, k_PKD: torch.Tensor, sequences: Sequences, scale: float) -> torch.Tensor:
    scores_HQP = q_QHD.transpose(0, 1) @ _heads_first(k_PKD, q_QHD.shape[1]).transpose(1, 2) * scale
    if not sequences.causal:
        return scores_HQP
    later = torch.ones_like(scores_HQP[0], dtype=torch.bool).triu(1)
    return scores_HQP.masked_fill(later, float("-inf"))


def _heads_first(states_PKD: torch.Tensor, heads: int) -> torch.Tensor:
    """[H, P, D], each key-value head repeated for its query heads."""
    return states_PKD.transpose(0, 1).repeat_interleave(heads // states_PKD.shape[1], dim=0)


def _tokens_first(gradient_HPD: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """[P, K, D], summed over the query heads of each key-value head."""
    return gradient_HPD.unflatten(0, (kv_heads, -1)).sum(dim=1).transpose(0, 1)
