"""The choice of an attention backend, made once at start: what is wanted and the hardware in, a `Backend` out."""

import difflib
import importlib.metadata
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers.utils import is_flash_attn_2_available

from models.attention.base import AttentionError, Backend, BackendName
from models.attention.flex import FlexPlan
from models.attention.kernels import FlashAttention2, TorchVarlen
from models.attention.sdpa import SdpaPlan
from models.attention.two_pass import TwoPassPlan
from models.triton_ready import triton_obstacle

Wanted = Literal["auto", "flash", "varlen", "flex", "sdpa"]

ORDER: tuple[BackendName, ...] = ("flash", "varlen", "flex", "sdpa")
"""Tried in this order under "auto"; the last works everywhere."""

KINDS: Mapping[BackendName, str] = MappingProxyType(
    {
        "flash": "flash-attn 2 in two passes",
        "varlen": "torch's own varlen kernels in two passes",
        "flex": "FlexAttention",
        "sdpa": "masked SDPA",
    }
)
"""What each is, for the announcement."""

_FLASH_CAPABILITY = (8, 0)
_FLASH_VERSIONS = ((2, 7), (3, 0))
_FLASH_MAX_HEAD_DIM = 256
_FLEX_MIN_HEAD_DIM = 16


def choose_backend(
    wanted: Wanted, device: torch.device, dtype: torch.dtype, head_dim: int, *, training: bool = True
) -> Backend:
    """The backend for the language model's packs, with the vision tower's beside it.

    Args:
        wanted: a backend, or "auto" for the first of `ORDER` that works.
        device, dtype: where and in what precision the models compute.
        head_dim: width of the language model's heads.
        training: a backward pass is needed.

    Raises:
        AttentionError: no such backend, or one that does not work here; the message says why and what does.
    """
    if wanted != "auto" and wanted not in ORDER:
        near = difflib.get_close_matches(wanted, ("auto", *ORDER), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttentionError(f"attention: got {wanted!r}, expected one of auto, {', '.join(ORDER)}{hint}")
    reasons = {name: _obstacle(name, device, dtype, head_dim, training=training) for name in ORDER}
    usable = [name for name in ORDER if reasons[name] is None]
    if wanted == "auto":
        chosen = usable[0]
    elif reasons[wanted] is None:
        chosen = wanted
    else:
        raise AttentionError(
            f"attention: got {wanted!r}, expected one of auto, {', '.join(usable)} here: {wanted} {reasons[wanted]}"
        )
    vision = "flash_attention_2" if chosen == "flash" else "sdpa"
    unwanted = "comes later in the order" if wanted == "auto" else "not asked for"
    others = "; ".join(f"not {name}: {reasons[name] or unwanted}" for name in ORDER if name != chosen)
    where = f"{device.type}, {str(dtype).removeprefix('torch.')}, head dim {head_dim}"
    return Backend(
        name=chosen,
        vision=vision,
        plan=_planner(chosen, device),
        announcement=f"attention: {chosen} ({KINDS[chosen]}; vision: {vision}) on {where}; {others}",
    )


def _planner(name: BackendName, device: torch.device) -> Callable[..., SdpaPlan | FlexPlan | TwoPassPlan]:
    if name == "flash":
        return partial(TwoPassPlan.of, kernel=FlashAttention2.load())
    if name == "varlen":
        return partial(TwoPassPlan.of, kernel=TorchVarlen())
    if name == "flex":
        compiled = flex_attention if device.type == "cpu" else torch.compile(flex_attention)
        return partial(FlexPlan.of, attention=compiled)
    return SdpaPlan.of


def _obstacle(
    name: BackendName, device: torch.device, dtype: torch.dtype, head_dim: int, *, training: bool
) -> str | None:
    """Why a backend does not work here; None where it does."""
    if name == "sdpa":
        return None
    if name == "flex" and device.type == "cpu":
        return "has no backward pass on the CPU" if training else None
    if device.type != "cuda":
        return f"needs a CUDA device, the models are on {device.type}"
    if not torch.cuda.is_available():
        return "needs a CUDA device, torch sees none"
    if name == "flex":
        return _flex_obstacle(head_dim)
    return _kernel_obstacle(device, dtype, head_dim) or (
        _flash_package_obstacle() if name == "flash" else _torch_varlen_obstacle()
    )


def _flex_obstacle(head_dim: int) -> str | None:
    if head_dim < _FLEX_MIN_HEAD_DIM:
        return f"needs a head dim of at least {_FLEX_MIN_HEAD_DIM}, got {head_dim}"
    return triton_obstacle()


def _kernel_obstacle(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if capability < _FLASH_CAPABILITY:
        return f"needs compute capability 8.0 or newer, the device has {capability[0]}.{capability[1]}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"needs bfloat16 or float16, got {str(dtype).removeprefix('torch.')}"
    if head_dim % 8 or head_dim > _FLASH_MAX_HEAD_DIM:
        return f"needs a head dim that is a multiple of 8 up to {_FLASH_MAX_HEAD_DIM}, got {head_dim}"
    return None


def _torch_varlen_obstacle() -> str | None:
    if not torch.backends.cuda.is_flash_attention_available():
        return "needs a torch built with flash attention"
    return None


def _flash_package_obstacle() -> str | None:
    install = "pip install --no-build-isolation -r requirements-gpu.txt"
    try:
        version = importlib.metadata.version("flash-attn")
    except importlib.metadata.PackageNotFoundError:
        return f"needs the package flash-attn, which is not installed: {install}"
    oldest, newest = _FLASH_VERSIONS
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if not oldest <= numbers < newest or not is_flash_attn_2_available():
        return f"needs flash-attn from 2.7 to below 3, got {version}: {install}"
    try:
        FlashAttention2.load()
    except ImportError as error:
        return f"cannot load flash-attn {version} ({error}); build it again for the installed torch: {install}"
    return None
