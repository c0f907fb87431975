"""A stage without weights in; the same stage, which will be filled with numbers that cost hardly any time, out.

A preset's own weights are drawn twice, number by number, which takes minutes at full size. Speed does not depend on
what they are, as long as they look random to the hardware and let numbers stay finite.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from models.loading import Blank
from trainer.stages.base import Stage
from trainer.stages.distill import DistillStage

_PATTERN = 1_048_573
"""Numbers that are drawn; matrices repeat them. A prime, so that the rows of a matrix differ."""

_DEVIATION = 0.02


class PatternWeights:
    """Matrices of one pattern of random numbers, scales of one, biases of zero."""

    files: tuple[Path, ...] = ()

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self._shapes: Mapping[str, torch.Size] = {name: p.shape for name, p in model.named_parameters()}
        generator = torch.Generator().manual_seed(0)
        self._pattern = (torch.randn(_PATTERN, generator=generator) * _DEVIATION).to(dtype)

    def read(self, name: str) -> torch.Tensor:
        """See `models.loading.Weights`."""
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=self._pattern.dtype)
        size = shape.numel()
        repeats = -(-size // _PATTERN)
        return self._pattern.repeat(repeats)[:size].view(shape).clone()


def with_pattern(stage: Stage) -> Stage:
    """The stage, changed: all that it will load comes from the pattern."""
    stage.blanks = tuple(_patterned(blank, stage.dtype) for blank in stage.blanks)
    if isinstance(stage, DistillStage):
        for part in stage.frozen_parts():
            part.blank = _patterned(part.blank, stage.dtype)
    return stage


def _patterned(blank: Blank[nn.Module], dtype: torch.dtype) -> Blank[nn.Module]:
    return replace(blank, weights=PatternWeights(blank.model, dtype))
