"""The section of a recipe on activation checkpointing; `trainer.settle` turns `auto` into numbers."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CheckpointingSection:
    """Layers that keep only their input and are run again in the backward pass, counted from the first one.

    Attributes:
        vision, language: number of layers, `all`, or `auto`: as few as make the estimated memory fit.
        gpu_gib: memory of a GPU that `auto` is to fit; 0 takes that of the GPU that is there.
    """

    vision: Literal["all", "auto"] | int = 0
    language: Literal["all", "auto"] | int = 0
    gpu_gib: float = 0.0
