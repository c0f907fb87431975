"""Attention of packs by PyTorch's SDPA: a mask for each run of segments in, attention over prefix and run out.

Works on every device and in every precision; the reference where no kernel for packs is installed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from models.attention.base import Group
from models.transfer import sent

_RUN_TOKENS = 128
"""Neighbouring segments are attended together up to so many tokens, or up to half their prefix where that is more."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Neighbouring segments of a group: tokens start to end of the pack, and bool [tokens, prefix + tokens], True where
    visible."""

    start: int
    end: int
    mask: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class SdpaPlan:
    """SDPA over each prefix, and masked SDPA over each run of segments with its prefix.

    Attributes:
        prefix_lengths: tokens of each group's prefix.
        runs: for each group its segments, in order.
    """

    prefix_lengths: tuple[int, ...]
    runs: tuple[tuple[Run, ...], ...]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> "SdpaPlan":
        """The plan of a pack."""
        return cls(
            prefix_lengths=tuple(group.prefix for group in groups), runs=tuple(tuple(_runs(group)) for group in groups)
        )

    @property
    def piece_lengths(self) -> list[int]:
        """Tokens of each prefix and of each run behind it, in the order of the pack."""
        lengths = []
        for prefix, runs in zip(self.prefix_lengths, self.runs, strict=True):
            lengths += [prefix, *(run.end - run.start for run in runs)]
        return lengths

    def to(self, device: torch.device | str) -> "SdpaPlan":
        """The same plan with its masks on `device`."""
        moved = (tuple(replace(run, mask=sent(run.mask, device)) for run in runs) for runs in self.runs)
        return replace(self, runs=tuple(moved))

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None, dropout: float
    ) -> torch.Tensor:
        """See `models.attention.base.Plan.attend`."""
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        sdpa = partial(scaled_dot_product_attention, dropout_p=dropout, scale=scale)
        # One split each, whose backward is one concatenation; a slice's backward would fill a whole pack with zeros.
        pieces = zip(*(states.split(self.piece_lengths, dim=2) for states in (query, key, value)), strict=True)
        parts = []
        for runs in self.runs:
            q, prefix_k, prefix_v = next(pieces)
            parts.append(sdpa(q, prefix_k, prefix_v, is_causal=True))
            for run in runs:
                q, k, v = next(pieces)
                k, v = torch.cat([prefix_k, k], dim=2), torch.cat([prefix_v, v], dim=2)
                parts.append(sdpa(q, k, v, attn_mask=run.mask))
        return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def _runs(group: Group) -> Iterator[Run]:
    start = group.start + group.prefix
    longest = max(_RUN_TOKENS, group.prefix // 2)
    held: list[int] = []
    for length in group.segments:
        if held and sum(held) + length > longest:
            yield _run(start, group.prefix, held)
            start, held = start + sum(held), []
        held.append(length)
    if held:
        yield _run(start, group.prefix, held)


def _run(start: int, prefix: int, lengths: Sequence[int]) -> Run:
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    own = (number[:, None] == number).tril()
    mask = torch.cat([own.new_ones(len(number), prefix), own], dim=1)
    return Run(start=start, end=start + len(number), mask=mask)
