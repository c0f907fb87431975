"""A frozen module without weights in; the same beside the engine, whole on every rank or divided over them, out."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn

from data_shards.collate import Batch
from models.loading import WHOLE, Blank, fill
from models.vision import normalise_tiles
from trainer.engine_partition import Partition
from trainer.stages.sources import StageError

Placement = Literal["auto", "replicate", "partition"]
PARTITIONED_BYTES = 2_000_000_000
"""Frozen parts above this size are partitioned under ZeRO-3 where the recipe leaves it open."""


class FrozenPart:
    """A module that is never trained: it is in no optimiser, in evaluation mode, and its parameters get no gradient.

    Attributes:
        dtype: it computes in; known once it is loaded.
    """

    def __init__(self, blank: Blank[Any], module: nn.Module | None = None) -> None:
        """Args: module: what is called, a wrapper of the blank's model or (None) that itself."""
        self.blank = blank
        self.module: nn.Module = blank.model if module is None else module
        self.module.requires_grad_(False).eval()
        self.dtype = torch.float32
        self._forward: Callable[..., Any] = self.module
        self._divided = False

    def __call__(self, *args: Any) -> Any:
        return self._forward(*args)

    @property
    def num_parameters(self) -> int:
        """Of the module, known before it is loaded."""
        return sum(parameter.numel() for parameter in self.blank.model.parameters())

    def divides(self, dtype: torch.dtype, placement: Placement) -> bool:
        """Whether the module is partitioned where ZeRO-3 is."""
        large = self.num_parameters * dtype.itemsize > PARTITIONED_BYTES
        return placement == "partition" or (placement == "auto" and large)

    def load(self, dtype: torch.dtype, placement: Placement, partition: Partition | None) -> None:
        """Read the weights, as `distill.teacher_placement` says; called on all ranks.

        Raises:
            StageError: partitioning is asked for where nothing is partitioned.
            ModelError, MainRankError: files that can no longer be read.
        """
        if partition is None and placement == "partition":
            raise StageError(
                "distill.teacher_placement: got partition, which needs ZeRO-3, expected auto or replicate under this "
                "DeepSpeed configuration; choose one, or a configuration with zero_optimization.stage 3"
            )
        self.dtype = dtype
        self._divided = partition is not None and self.divides(dtype, placement)
        if partition is not None and self._divided:
            fill(self.blank, dtype, partition)
            self._forward = partition.serve(self.module)
        else:
            fill(self.blank, dtype, WHOLE)

    def to(self, device: torch.device) -> None:
        """Move a whole module; a divided one is where it belongs."""
        if not self._divided:
            self.module.to(device)


def patch_sample(tower: FrozenPart, batches: Iterable[Batch], num_tiles: int, device: torch.device) -> torch.Tensor:
    """A tower's last patch features of the first `num_tiles` tiles or a few more, float32 [F, E] on the CPU.

    A partitioned tower needs all ranks: each calls this with the same batches.
    """
    features, seen = [], 0
    for batch in batches:
        pixels = normalise_tiles(batch.tiles.to(device), tower.dtype)
        features.append(tower(pixels, 1)[0][:, 1:].flatten(0, 1).float().cpu())
        seen += len(batch.tiles)
        if seen >= num_tiles:
            break
    return torch.cat(features)
