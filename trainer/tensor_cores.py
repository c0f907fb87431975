"""A resolved configuration in; float32 products of a run in 16 bits on tensor cores, and what to announce, out."""

from collections.abc import Mapping
from typing import Any

import torch

from trainer.dist import num_gpus
from trainer.ds_config import precision


def use_tensor_cores(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Let what a run in 16 bits computes in float32, the codebook's logits, be multiplied in TF32.

    Set for the process, since products of the backward pass are made by autograd. A run in float32 stays as it is.
    """
    if not num_gpus() or precision(config) == "float32":
        return ()
    torch.set_float32_matmul_precision("high")
    return ("float32 matrix products (codebook logits) run in TF32: their inputs were computed in 16 bits",)
