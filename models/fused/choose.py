"""The choice of fused kernels, made once at start: what is wanted and the hardware in, `Operations` out."""

import difflib
import importlib.metadata
from dataclasses import replace
from typing import Any, Literal

import torch

from models.fused.operations import PLAIN, KernelName, Operations, cross_entropy, rms_norm, rotary, swiglu
from models.triton_ready import triton_obstacle

WantedKernels = Literal["auto", "liger", "compile", "plain"]

ORDER: tuple[KernelName, ...] = ("liger", "compile", "plain")
"""Tried in this order under "auto" on a GPU; on a CPU "auto" is plain, since to compile takes longer than it saves."""

_KINDS = {
    "liger": "Liger's kernels, cross-entropy compiled",
    "compile": "torch.compile of each operation",
    "plain": "as transformers writes them",
}
_LIGER_OLDEST = (0, 5)


class FusedError(ValueError):
    """Kernels that are asked for and not to be had; the message names what was got, what is expected and the fix."""


def choose_fused(wanted: WantedKernels, device: torch.device) -> Operations:
    """The kernels for all that is fused, see `Operations`.

    Args:
        wanted: one of `ORDER`, or "auto" for the first that works.
        device: where the models compute.

    Raises:
        FusedError: no such kernels, or some that do not work here; the message says why and what does.
    """
    if wanted != "auto" and wanted not in ORDER:
        near = difflib.get_close_matches(wanted, ("auto", *ORDER), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise FusedError(f"kernels: got {wanted!r}, expected one of auto, {', '.join(ORDER)}{hint}")
    reasons = {name: _obstacle(name, device) for name in ORDER}
    usable = [name for name in ORDER if reasons[name] is None]
    chosen: KernelName
    if wanted == "auto":
        chosen = usable[0] if device.type == "cuda" else "plain"
    elif reasons[wanted] is None:
        chosen = wanted
    else:
        raise FusedError(
            f"kernels: got {wanted!r}, expected one of auto, {', '.join(usable)} here: {wanted} {reasons[wanted]}"
        )
    unwanted = "not asked for"
    if wanted == "auto":
        unwanted = "comes later in the order" if device.type == "cuda" else "takes longer than it saves on a CPU"
    others = "; ".join(f"not {name}: {reasons[name] or unwanted}" for name in ORDER if name != chosen)
    for_what = "RMSNorm, SwiGLU, rotary embeddings, cross-entropy and layers of the tower"
    announcement = f"kernels: {chosen} ({_KINDS[chosen]}) for {for_what}; {others}"
    return _operations(chosen, announcement)


def _operations(name: KernelName, announcement: str) -> Operations:
    if name == "liger":
        return liger_operations(_liger_functions(), announcement)
    if name == "compile":
        return Operations(
            name=name,
            rms_norm=torch.compile(rms_norm, dynamic=True),
            swiglu=torch.compile(swiglu, dynamic=True),
            rotary=torch.compile(rotary, dynamic=True),
            cross_entropy=torch.compile(cross_entropy, dynamic=True),
            announcement=announcement,
        )
    return replace(PLAIN, announcement=announcement)


def liger_operations(functions: Any, announcement: str) -> Operations:
    """Liger's functions under the signatures of `Operations`.

    Its cross-entropy is not taken: it rounds losses to the logits' precision, and the host waits for it.

    Args:
        functions: the module `liger_kernel.transformers.functional`.
    """

    def normed(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        # in_place would write the gradient of the input over that of the output, which others may hold.
        return functions.liger_rms_norm(hidden, weight, epsilon, in_place=False)

    return Operations(
        name="liger",
        rms_norm=normed,
        swiglu=functions.liger_swiglu,
        rotary=functions.liger_rope,
        cross_entropy=torch.compile(cross_entropy, dynamic=True),
        announcement=announcement,
    )


def _liger_functions() -> Any:
    from liger_kernel.transformers import functional

    return functional


def _obstacle(name: KernelName, device: torch.device) -> str | None:
    """Why kernels do not work here; None where they do."""
    if name == "plain":
        return None
    if name == "liger":
        return _liger_obstacle(device)
    return triton_obstacle() if device.type == "cuda" else None


def _liger_obstacle(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"needs a CUDA device, the models are on {device.type}"
    install = "pip install liger-kernel, as pinned in requirements-gpu.txt"
    try:
        version = importlib.metadata.version("liger-kernel")
    except importlib.metadata.PackageNotFoundError:
        return f"needs the package liger-kernel, which is not installed: {install}"
    if tuple(int(part) for part in version.split(".")[:2]) < _LIGER_OLDEST:
        return f"needs liger-kernel 0.5 or newer, got {version}: {install}"
    try:
        _liger_functions()
    except ImportError as error:
        return f"cannot load liger-kernel {version} ({error}): {install}"
    return triton_obstacle()
