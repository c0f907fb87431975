"""What a pack holds in, its cost in FLOPs out; and packs ordered so that those of one step cost the same."""

from dataclasses import dataclass

import numpy as np

BLOCK = 512
"""Packs of like cost that stand side by side; steps of up to so many ranks wait for no one."""


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """FLOPs of forward and backward passes; only ratios count.

    Attributes:
        token: of the language model for one token, attention aside.
        tile: of the vision tower for one tile.
        pair: of the language model's attention for one (query, key) pair, all layers and heads.
    """

    token: float = 1.0
    tile: float = 0.0
    pair: float = 0.0

    def visits(self, prefix: np.ndarray, segments: np.ndarray, squares: np.ndarray, tiles: np.ndarray) -> np.ndarray:
        """Cost of visits [N]: one prefix and the segments asked of it.

        Args:
            prefix: tokens of the prefix.
            segments: tokens of all segments together.
            squares: sum of the squares of the segments' tokens.
            tiles: of the frame.
        """
        prefix, segments, squares, tiles = (counts.astype(float) for counts in (prefix, segments, squares, tiles))
        pairs = prefix**2 / 2 + prefix * segments + squares / 2
        return self.token * (prefix + segments) + self.tile * tiles + self.pair * pairs


def balanced_order(costs: np.ndarray, rng: np.random.Generator, block: int = BLOCK) -> np.ndarray:
    """A random order of packs in which every block of neighbours has nearly equal costs.

    Packs are sorted by cost and cut into blocks; blocks are shuffled, and so are the packs of each. Fewer packs than
    two blocks come in random order.

    Args:
        costs: [P].
        rng: chooses the order.
        block: packs of a block.

    Returns:
        int [P], a permutation.
    """
    if len(costs) < 2 * block:
        return rng.permutation(len(costs))
    ascending = np.argsort(costs + rng.random(len(costs)) * 1e-9 * costs.mean(), kind="stable")
    blocks = [rng.permutation(ascending[i : i + block]) for i in range(0, len(costs), block)]
    last = blocks.pop() if len(blocks[-1]) < block else np.zeros(0, ascending.dtype)
    return np.concatenate([*(blocks[i] for i in rng.permutation(len(blocks))), last])
