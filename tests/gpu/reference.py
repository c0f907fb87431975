"""Shared-prefix attention written down token by token, in float64, and packs to compare with it."""

from dataclasses import dataclass

import torch

from models.attention import PackLayout, pack_layout
from models.attention.base import Backend


@dataclass(frozen=True, kw_only=True)
class Case:
    """Lengths of a pack, and its heads: for each group (prefix, segments)."""

    lengths: tuple[tuple[int, tuple[int, ...]], ...]
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 8

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """(start, end) of each."""
        ends = torch.tensor([0, *(prefix + sum(segments) for prefix, segments in self.lengths)]).cumsum(0).tolist()
        return tuple(zip(ends[:-1], ends[1:], strict=True))

    @property
    def segment_ids(self) -> torch.Tensor:
        """Within a group 0 for the prefix, then 1, 2, ..."""
        ids = []
        for prefix, segments in self.lengths:
            for number, length in enumerate((prefix, *segments)):
                ids += [number] * length
        return torch.tensor(ids, dtype=torch.int32)

    def layout(self, backend: Backend | None = None) -> PackLayout:
        """The layout, planned for `backend`."""
        return pack_layout(self.groups, self.segment_ids, backend)

    def states(self, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Query, key, value [1, heads, tokens, width], and a gradient of the output, in float64."""
        generator = torch.Generator().manual_seed(seed)
        tokens = self.groups[-1][1]
        shapes = [(1, heads, tokens, self.head_dim) for heads in (self.heads, self.kv_heads, self.kv_heads)]
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        grad = torch.randn(1, tokens, self.heads, self.head_dim, generator=generator, dtype=torch.float64)
        return (*drawn, grad)

    def sees(self, row: int) -> list[int]:
        """The rule itself: the tokens that token `row` sees."""
        start, _ = next(group for group in self.groups if group[0] <= row < group[1])
        ids = self.segment_ids.tolist()
        return [column for column in range(start, row + 1) if ids[column] in (0, ids[row])]


def random_case(seed: int) -> Case:
    """One to four groups of up to 20 prefix tokens and up to four segments, text-only groups among them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    lengths = []
    for _ in range(draw(1, 4)):
        prefix = draw(0, 1) * draw(1, 20)
        segments = tuple(draw(1, 9) for _ in range(draw(0 if prefix else 1, 4)))
        lengths.append((prefix, segments))
    heads, kv_heads = ((4, 2), (2, 2), (6, 1))[draw(0, 2)]
    return Case(lengths=tuple(lengths), heads=heads, kv_heads=kv_heads, head_dim=(8, 16, 64)[draw(0, 2)])


def reference(case: Case, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """[1, tokens, heads, width], one token after the other."""
    repeats = case.heads // case.kv_heads
    k, v = (states[0].repeat_interleave(repeats, dim=0) for states in (key, value))
    outs = []
    for row in range(case.groups[-1][1]):
        columns = case.sees(row)
        weights = (query[0, :, row, None] * k[:, columns]).sum(-1).mul(scale).softmax(-1)
        outs.append((weights[..., None] * v[:, columns]).sum(1))
    return torch.stack(outs)[None]


def with_gradients(attend, query, key, value, grad) -> tuple[torch.Tensor, ...]:
    """Output of `attend(query, key, value)` and gradients of query, key and value for the output's gradient `grad`."""
    leaves = [states.detach().clone().requires_grad_() for states in (query, key, value)]
    out = attend(*leaves)
    return (out.detach(), *torch.autograd.grad(out, leaves, grad))
