"""Losses of labels or tiles, and the names they belong to, in; sum and weight of each name, for exact means, out."""

from collections.abc import Sequence

import torch


def index_of(names: Sequence[str], own: Sequence[str]) -> torch.Tensor:
    """Place in `names` of each of these L names, int64 [L] on the CPU."""
    places = {name: place for place, name in enumerate(names)}
    return torch.tensor([places[name] for name in own], dtype=torch.int64)


def means_by(
    names: Sequence[str], index: torch.Tensor, losses: torch.Tensor, weights: torch.Tensor
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Sum and weight of the losses by name.

    Args:
        index: int64 [L], of `index_of`, on the device of the losses.
        losses, weights: [L], a loss already times its weight.

    Returns:
        scalars without graph, on that device.
    """
    zeros = losses.new_zeros(len(names))
    sums, totals = zeros.index_add(0, index, losses.detach()), zeros.index_add(0, index, weights)
    return {name: (sums[place], totals[place]) for place, name in enumerate(names)}
