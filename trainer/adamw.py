"""A resolved DeepSpeed configuration and what the recipe wants in; the same with the kernels of AdamW chosen, out."""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch

from trainer.typed_yaml import ConfigError

WantedAdamW = Literal["auto", "fused", "plain", "deepspeed"]

_PARAMETERS = {
    "fused": {"torch_adam": True, "fused": True},
    "plain": {"torch_adam": True},
    "deepspeed": {"torch_adam": False},
}
"""What each is in `optimizer.params` of the configuration."""

_KINDS = {
    "fused": "torch's, one kernel for many tensors, nothing is compiled",
    "plain": "torch's, not fused",
    "deepspeed": "DeepSpeed's FusedAdam, or CPUAdam where the optimiser is on the host; compiled at the first start",
}


def choose_adamw(config: Mapping[str, Any], wanted: WantedAdamW, device: torch.device) -> tuple[dict[str, Any], str]:
    """Fill in how AdamW computes.

    Args:
        config: as `trainer.ds_config.resolve` returns.
        wanted: `auto` takes what the configuration says, else `fused` on a GPU, else what DeepSpeed takes.
        device: where the models compute.

    Returns:
        a new configuration, and what to announce; nothing for other optimisers.

    Raises:
        ConfigError: the configuration says otherwise, has another optimiser, or keeps its states on the host.
    """
    chosen = copy.deepcopy(dict(config))
    optimizer = chosen.get("optimizer", {})
    name, parameters = optimizer.get("type", "AdamW"), optimizer.setdefault("params", {})
    if name.lower() not in ("adam", "adamw"):
        _refuse(wanted != "auto", wanted, f"expected auto: the optimizer of the DeepSpeed configuration is {name}")
        return chosen, ""
    on_host = chosen.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none") != "none"
    _refuse(
        wanted in ("fused", "plain") and on_host,
        wanted,
        "expected auto or deepspeed: zero_optimization.offload_optimizer keeps the states on the host, where "
        "DeepSpeed's CPUAdam is the fused one",
    )
    said = _said(parameters)
    if wanted == "auto":
        kernel = said or ("fused" if device.type == "cuda" and not on_host else "deepspeed")
    else:
        _refuse(
            said not in ("", wanted),
            wanted,
            f"but optimizer.params of the DeepSpeed configuration says {said!r}; leave torch_adam and fused out of it, "
            "the recipe owns this value",
        )
        kernel = wanted
    parameters.pop("fused", None)
    parameters.update(_PARAMETERS[kernel])
    return chosen, f"optimiser: AdamW {kernel} ({_KINDS[kernel]})"


def _said(parameters: Mapping[str, Any]) -> str:
    """What the configuration says by itself; empty where it says nothing."""
    if "torch_adam" not in parameters:
        return ""
    if not parameters["torch_adam"]:
        return "deepspeed"
    return "fused" if parameters.get("fused") else "plain"


def _refuse(wrong: bool, wanted: str, why: str) -> None:
    if wrong:
        raise ConfigError(f"optim.kernel: got {wanted!r}, {why}")
