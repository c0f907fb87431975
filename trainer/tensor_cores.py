"""A recipe and its configuration in; float32 products of a run in 16 bits on tensor cores, what to announce, out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from trainer.dist import num_gpus
from trainer.ds_config import precision
from trainer.recipe import Recipe


def use_tensor_cores(recipe: Recipe, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Let a distillation in 16 bits multiply its codebook logits, which are in float32, in TF32.

    Set for the process, since products of the backward pass are made by autograd. A run in float32 stays as it is.
    """
    has_logits = recipe.stage == "distill" and bool(recipe.distill.patch_logits)
    if not has_logits or not num_gpus() or precision(config) == "float32":
        return ()
    torch.set_float32_matmul_precision("high")
    return ("codebook logits: float32 products in TF32, since what they are made of was computed in 16 bits",)


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products in here are float32's, whatever a run has chosen."""
    former = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(former)
