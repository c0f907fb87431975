"""Attention of packs by FlexAttention (arXiv 2412.05496): groups in, a block mask made once a batch and attention out.

Shape suffixes: N tokens of a pack, B blocks of 128 tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from models.attention.base import AttentionError, Group, refuse_dropout
from models.transfer import sent

BLOCK = 128
"""Tokens of a block, FlexAttention's own default."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What each token sees up to its own place: its group's prefix, and its own segment; int32 [N] each."""

    prefix_start: torch.Tensor
    prefix_end: torch.Tensor
    own_start: torch.Tensor

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "Ranges":
        """The ranges of a pack's tokens, on the CPU."""
        starts, ends, own_starts, lengths = [], [], [], []
        for group in groups:
            place = group.start
            for length in (group.prefix, *group.segments):
                starts.append(group.start)
                ends.append(group.start + group.prefix)
                own_starts.append(place)
                lengths.append(length)
                place += length
        repeats = torch.tensor(lengths)
        columns = (torch.tensor(column, dtype=torch.int32) for column in (starts, ends, own_starts))
        prefix_start, prefix_end, own_start = (column.repeat_interleave(repeats) for column in columns)
        return cls(prefix_start=prefix_start, prefix_end=prefix_end, own_start=own_start)

    def to(self, device: torch.device | str) -> "Ranges":
        """The same ranges on `device`."""
        return Ranges(
            prefix_start=sent(self.prefix_start, device),
            prefix_end=sent(self.prefix_end, device),
            own_start=sent(self.own_start, device),
        )

    def mask(self) -> Callable[..., torch.Tensor]:
        """Whether a query token sees a key token, in FlexAttention's form: batch, head, query, key."""
        prefix_start, prefix_end, own_start = self.prefix_start, self.prefix_end, self.own_start

        def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            own = key >= own_start[query]
            prefix = (key >= prefix_start[query]) & (key < prefix_end[query])
            return (own | prefix) & (key <= query)

        return sees

    def pairs(self) -> torch.Tensor:
        """Visible pairs in each block of queries and keys: int64 [B, B], counted without a mask of N x N."""
        tokens = len(self.own_start)
        blocks = -(-tokens // BLOCK)
        edges = torch.arange(blocks + 1) * BLOCK
        query_end = torch.arange(1, tokens + 1)
        prefix_end = torch.minimum(self.prefix_end, self.own_start)  # a prefix's own tokens count once

        def keys_below_edges(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
            """[N, B + 1]"""
            return torch.minimum(edges, end[:, None]).sub(start[:, None]).clamp(min=0)

        below = keys_below_edges(self.prefix_start, prefix_end) + keys_below_edges(self.own_start, query_end)
        by_row = torch.nn.functional.pad(below.diff(dim=1), (0, 0, 0, blocks * BLOCK - tokens))
        return by_row.unflatten(0, (blocks, BLOCK)).sum(dim=1)

    def block_mask(self) -> BlockMask:
        """Which blocks are empty, full, or masked pair by pair."""
        pairs = self.pairs()
        full = pairs == BLOCK * BLOCK
        tokens = len(self.own_start)
        return BlockMask.from_kv_blocks(
            *_listed((pairs > 0) & ~full),
            *_listed(full),
            BLOCK_SIZE=BLOCK,
            mask_mod=self.mask(),
            seq_lengths=(tokens, tokens),
        )


@dataclass(frozen=True, kw_only=True)
class FlexPlan:
    """A pack's ranges and block mask, and the function that attends: `flex_attention`, compiled for GPUs."""

    ranges: Ranges
    block_mask: BlockMask
    attention: Callable[..., torch.Tensor]

    @classmethod
    def of(cls, groups: Sequence[Group], attention: Callable[..., torch.Tensor] = flex_attention) -> "FlexPlan":
        """The plan of a pack."""
        ranges = Ranges.of(groups)
        return cls(ranges=ranges, block_mask=ranges.block_mask(), attention=attention)

    def to(self, device: torch.device | str) -> "FlexPlan":
        """The same plan with its tensors on `device`, those that the mask function holds too."""
        ranges, block_mask = self.ranges.to(device), self.block_mask.to(device)
        block_mask.mask_mod = ranges.mask()
        return replace(self, ranges=ranges, block_mask=block_mask)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None, dropout: float
    ) -> torch.Tensor:
        """See `models.attention.base.Plan.attend`.

        Raises:
            AttentionError: dropout, or gradients wanted on the CPU.
        """
        refuse_dropout(dropout)
        if query.device.type == "cpu" and any(states.requires_grad for states in (query, key, value)):
            raise AttentionError(
                "attention: got flex for training on the CPU, expected sdpa: FlexAttention has no backward pass there; "
                "choose sdpa or auto"
            )
        grouped = query.shape[1] != key.shape[1]
        out = self.attention(query, key, value, block_mask=self.block_mask, scale=scale, enable_gqa=grouped)
        return out.transpose(1, 2).contiguous()


def _listed(dense_BB: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each block of queries: how many blocks of keys, int32 [1, 1, B]; which, at the front of int32 [1, 1, B, B]."""
    counts = dense_BB.sum(dim=-1, dtype=torch.int32)
    order = dense_BB.int().argsort(dim=-1, descending=True, stable=True).int()
    return counts[None, None], order[None, None]
