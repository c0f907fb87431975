"""A DeepSpeed optimiser between the backward pass and the update in, squared gradient norms by module out.

The gradients are read where DeepSpeed keeps them: this rank's part of each under ZeRO, whole ones elsewhere.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn


def grad_squares(optimizer: Any, module_of: Mapping[nn.Parameter, str], world_size: int) -> dict[str, torch.Tensor]:
    """This rank's share of each module's squared gradient norm, scalars on the device: nothing is read back.

    Args:
        optimizer: the engine's, of ZeRO stage 0 to 3.
        module_of: trained parameters.
        world_size: ranks that hold the same gradient where gradients are whole.

    Returns:
        float32 squares; modules whose gradients DeepSpeed keeps elsewhere (offload) are missing.
    """
    gradients: dict[str, list[torch.Tensor]] = {}
    for parameter, gradient in _local_gradients(optimizer, module_of):
        gradients.setdefault(module_of[parameter], []).append(gradient)
    share = 1.0 if hasattr(optimizer, "averaged_gradients") else 1.0 / world_size
    factor = share / float(getattr(optimizer, "loss_scale", 1.0)) ** 2
    squares = {}
    for module, parts in gradients.items():
        norms = torch.stack(torch._foreach_norm(parts, 2, torch.float32))
        squares[module] = norms.square().sum() * factor
    return squares


def _local_gradients(
    optimizer: Any, module_of: Mapping[nn.Parameter, str]
) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
    kept = getattr(optimizer, "averaged_gradients", None)
    if kept is None:
        yield from ((parameter, parameter.grad) for parameter in module_of if parameter.grad is not None)
        return
    groups = optimizer.fp16_groups if hasattr(optimizer, "fp16_groups") else optimizer.params_in_partition
    for number, parts in kept.items():
        yield from zip(groups[number], parts or (), strict=False)  # ZeRO-1 and 2 pad the last part
