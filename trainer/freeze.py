"""A model and name patterns in; parameters that are trained no more out."""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn


class FreezeError(ValueError):
    """A pattern that freezes nothing, or patterns that freeze everything; the message names parameters there are."""


def freeze(model: nn.Module, patterns: Sequence[str], field: str = "model.freeze") -> None:
    """Take the matching parameters out of training.

    Args:
        model: its parameter names are matched.
        patterns: as `fnmatch` reads them, against whole names and with case.
        field: of the recipe, for messages.

    Raises:
        FreezeError: every pattern that matches no parameter, with near names; or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    idle = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in parameters)]
    if idle:
        raise FreezeError(
            "\n".join(f"{field}: {pattern!r} matches no parameter; {_near(pattern, parameters)}" for pattern in idle)
        )
    for name, parameter in parameters.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise FreezeError(f"{field}: got {', '.join(patterns)}, which leaves nothing to train; leave one of them out")


def let_gradients_in(layers: Iterable[nn.Module]) -> None:
    """See to it that the first layer with a trained parameter has an input that wants a gradient, whatever is frozen
    before it.

    DeepSpeed releases the parameters of a ZeRO-3 leaf module when the gradient of its input is known: where none is
    wanted, before its backward pass has begun. To be called before the engine is made, whose hooks come after this one.
    """
    for layer in layers:
        if any(parameter.requires_grad for parameter in layer.parameters()):
            layer.register_forward_pre_hook(_want_gradient)
            return


def _want_gradient(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden, *others = args
    if torch.is_grad_enabled() and not hidden.requires_grad:
        hidden = hidden.detach().requires_grad_()
    return (hidden, *others)


def _near(pattern: str, names: Sequence[str] | dict[str, nn.Parameter]) -> str:
    close = difflib.get_close_matches(pattern, list(names), n=3, cutoff=0.0)
    return f"names near it: {', '.join(close)}"
