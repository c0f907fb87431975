"""Layers and a number in; the first so many keep only their input, and are run again in the backward pass.

The first ones, because a layer that is run again needs its activations once more: by then those of the layers behind it
are gone, so that the peak does not grow.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class CheckpointingError(ValueError):
    """More layers than there are; the message says how many a module has."""


def num_checkpointed(field: str, wanted: int | Literal["all"], layers: Sequence[nn.Module]) -> int:
    """How many of `layers` are meant.

    Raises:
        CheckpointingError: more than there are; `field` is the recipe's, for the message.
    """
    if wanted == "all":
        return len(layers)
    if wanted > len(layers):
        raise CheckpointingError(f"{field}: got {wanted}, expected 0 to {len(layers)}, the layers there are, or all")
    return wanted


def checkpoint_layers(layers: Iterable[nn.Module]) -> None:
    """Run these layers again in the backward pass (non-reentrant), whether they are trained, frozen or in evaluation
    mode.

    Only `forward` is replaced, on the objects: hooks of the layer, by which ZeRO-3 gathers its parameters, run once.
    The state of torch's random generators is restored for the second run, so that DropPath drops the same branches.
    """
    for layer in layers:
        if _former(layer) is None:
            layer.forward = partial(_again, layer, layer.forward)


def release_layers(layers: Iterable[nn.Module]) -> None:
    """Undo `checkpoint_layers`; layers that were left alone stay as they are."""
    for layer in layers:
        former = _former(layer)
        if former is None:
            continue
        vars(layer).pop("forward")
        if layer.forward != former:
            layer.forward = former


def _former(layer: nn.Module) -> Callable[..., Any] | None:
    """What a checkpointed layer runs, now and again; None for other layers."""
    forward = vars(layer).get("forward")
    if not isinstance(forward, partial) or forward.func is not _again:
        return None
    own: Callable[..., Any] = forward.args[1]
    return own


def _again(layer: nn.Module, forward: Callable[..., Any], hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    wanted = hidden.requires_grad or any(parameter.requires_grad for parameter in layer.parameters())
    if not torch.is_grad_enabled() or not wanted:
        return forward(hidden, *args, **kwargs)
    return checkpoint(forward, hidden, *args, use_reentrant=False, **kwargs)
