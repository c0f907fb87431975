"""Attention for packs: token groups and segment ids in, a `PackLayout` and the transformers attention function that
obeys it out. A segment sees its group's prefix and itself, causally; a prefix sees itself; nothing else is visible.

Shape suffixes: N tokens of a pack, H query heads, K key-value heads, D head width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import InternVLForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PACK_ATTENTION = "drivlm_pack"
"""Name in transformers' attention registry. It has no entry in the mask registry, so that the language model builds
no causal mask of its own for it: the layout is the only mask there is."""


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
class PackLayout:
    """Who sees whom in one pack.

    Attributes:
        groups: (start, end) of each prefix with its segments; together they cover the pack, in order.
        prefix_lengths: tokens of each group's prefix.
        runs: for each group its segments, in order.
    """

    groups: tuple[tuple[int, int], ...]
    prefix_lengths: tuple[int, ...]
    runs: tuple[tuple[Run, ...], ...]

    @property
    def piece_lengths(self) -> list[int]:
        """Tokens of each prefix and of each run behind it, in the order of the pack."""
        lengths = []
        for prefix, runs in zip(self.prefix_lengths, self.runs, strict=True):
            lengths += [prefix, *(run.end - run.start for run in runs)]
        return lengths

    def to(self, device: torch.device | str) -> "PackLayout":
        """The same layout with its masks on `device`."""
        moved = (tuple(replace(run, mask=run.mask.to(device, non_blocking=True)) for run in runs) for runs in self.runs)
        return replace(self, runs=tuple(moved))


def pack_layout(groups: Sequence[tuple[int, int]], segment_ids: torch.Tensor) -> PackLayout:
    """Build the layout of a pack, once a batch and on the CPU: lengths are read back as integers.

    Args:
        groups: (start, end) of each group, in order and without gaps.
        segment_ids: int [N]; within a group 0 for the prefix, then 1, 2, ... for its segments.
    """
    ends = [0, *(end for _, end in groups)]
    assert [start for start, _ in groups] == ends[:-1], f"groups {groups} leave gaps or overlap"
    assert ends[-1] == len(segment_ids), f"groups end at {ends[-1]}, the pack has {len(segment_ids)} tokens"
    lengths, runs = [], []
    for start, end in groups:
        ids = segment_ids[start:end]
        assert bool((ids.diff() >= 0).all()), "segment ids fall within a group: a prefix comes first, segments in order"
        prefix, *segments = torch.bincount(ids).tolist()
        lengths.append(prefix)
        runs.append(tuple(_runs(start + prefix, prefix, segments)))
    return PackLayout(groups=tuple(groups), prefix_lengths=tuple(lengths), runs=tuple(runs))


def _runs(start: int, prefix: int, segments: Sequence[int]) -> Iterator[Run]:
    """Segments of these lengths, the first of them at `start`."""
    longest = max(_RUN_TOKENS, prefix // 2)
    held: list[int] = []
    for length in segments:
        if held and sum(held) + length > longest:
            yield _run(start, prefix, held)
            start, held = start + sum(held), []
        held.append(length)
    if held:
        yield _run(start, prefix, held)


def _run(start: int, prefix: int, lengths: Sequence[int]) -> Run:
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    own = (number[:, None] == number).tril()
    mask = torch.cat([own.new_ones(len(number), prefix), own], dim=1)
    return Run(start=start, end=start + len(number), mask=mask)


def register_pack_attention() -> None:
    """Make `PACK_ATTENTION` known to transformers; may be called any number of times."""
    ALL_ATTENTION_FUNCTIONS.register(PACK_ATTENTION, pack_attention)


def pack_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack_layout: PackLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Reference backend: SDPA over each prefix, and masked SDPA over each run of segments with its prefix.

    Args:
        query: [1, H, N, D]; key, value: [1, K, N, D] with H a multiple of K.
        attention_mask: always None, see `PACK_ATTENTION`.
        pack_layout: the layout, handed through the language model's keyword arguments.

    Returns:
        [1, N, H, D] and None, as transformers expects.
    """
    assert pack_layout is not None, f"{PACK_ATTENTION} was called without a layout; see `attention_set_to`"
    assert attention_mask is None, "a pack has no mask of its own"
    assert query.shape[0] == 1, f"a pack is one row, got {query.shape[0]}"
    assert query.shape[2] == key.shape[2] == pack_layout.groups[-1][1], "a pack is attended whole, without a cache"
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    sdpa = partial(scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    # One split each, whose backward is one concatenation; a slice's backward would fill a whole pack with zeros.
    pieces = zip(*(states.split(pack_layout.piece_lengths, dim=2) for states in (query, key, value)), strict=True)
    parts = []
    for runs in pack_layout.runs:
        q, prefix_k, prefix_v = next(pieces)
        parts.append(sdpa(q, prefix_k, prefix_v, is_causal=True))
        for run in runs:
            q, k, v = next(pieces)
            parts.append(sdpa(q, torch.cat([prefix_k, k], dim=2), torch.cat([prefix_v, v], dim=2), attn_mask=run.mask))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


@contextmanager
def attention_set_to(vlm: InternVLForConditionalGeneration, name: str) -> Iterator[None]:
    """Run the language model under the attention function `name` ("sdpa" is stock), then put the former one back."""
    language = vlm.model.language_model
    former = language.config._attn_implementation
    language.set_attn_implementation(name)
    try:
        yield
    finally:
        language.set_attn_implementation(former)
