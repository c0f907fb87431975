"""Who sees whom in a pack: token groups and segment ids in, a `PackLayout` planned for one backend out. A segment sees
its group's prefix and itself, causally; a prefix sees itself; nothing else is visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from models.attention.base import Backend, Group, Plan
from models.attention.sdpa import SdpaPlan


@dataclass(frozen=True, kw_only=True)
class PackLayout:
    """Who sees whom in one pack.

    Attributes:
        groups: (start, end) of each prefix with its segments; together they cover the pack, in order.
        prefix_lengths: tokens of each group's prefix.
        segment_lengths: tokens of each group's segments.
        plan: what the backend made of it; all that the layers use.
    """

    groups: tuple[tuple[int, int], ...]
    prefix_lengths: tuple[int, ...]
    segment_lengths: tuple[tuple[int, ...], ...]
    plan: Plan

    def to(self, device: torch.device | str) -> "PackLayout":
        """The same layout with its plan's tensors on `device`."""
        return replace(self, plan=self.plan.to(device))


def pack_layout(
    groups: Sequence[tuple[int, int]], segment_ids: torch.Tensor, backend: Backend | None = None
) -> PackLayout:
    """Build the layout of a pack, once a batch and on the CPU: lengths are read back as integers.

    Args:
        groups: (start, end) of each group, in order and without gaps.
        segment_ids: int [N]; within a group 0 for the prefix, then 1, 2, ... for its segments.
        backend: what will attend; masked SDPA where not given.
    """
    ends = [0, *(end for _, end in groups)]
    assert [start for start, _ in groups] == ends[:-1], f"groups {groups} leave gaps or overlap"
    assert ends[-1] == len(segment_ids), f"groups end at {ends[-1]}, the pack has {len(segment_ids)} tokens"
    parts = []
    for start, end in groups:
        ids = segment_ids[start:end]
        assert bool((ids.diff() >= 0).all()), "segment ids fall within a group: a prefix comes first, segments in order"
        prefix, *segments = torch.bincount(ids).tolist()
        parts.append(Group(start=start, prefix=prefix, segments=tuple(length for length in segments if length)))
    return PackLayout(
        groups=tuple(groups),
        prefix_lengths=tuple(part.prefix for part in parts),
        segment_lengths=tuple(part.segments for part in parts),
        plan=SdpaPlan.of(parts) if backend is None else backend.plan(parts),
    )
