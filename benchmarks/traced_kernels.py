"""Kernels of a GPU for stages on the meta device: shapes in, shapes out, and kept is what those kernels keep."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from models.attention import Backend
from models.attention.kernels import TorchVarlen
from models.attention.two_pass import TwoPassPlan
from models.fused import PLAIN, Operations

_TILES_ATTENTION = "traced_tiles"


@contextmanager
def traced_kernels() -> Iterator[None]:
    """Stages made in here take kernels for packs and tiles that torch can trace, and stand-ins for Liger's unless plain
    ones are asked for."""
    ALL_ATTENTION_FUNCTIONS.register(_TILES_ATTENTION, _attend_tiles)
    with (
        mock.patch("trainer.stages.vlm.choose_backend", traced_backend),
        mock.patch("trainer.stages.towers.choose_backend", traced_backend),
        mock.patch("trainer.stages.vlm.choose_fused", _operations),
        mock.patch("trainer.stages.towers.choose_fused", _operations),
    ):
        yield


def traced_backend(*ignored: object) -> Backend:
    """Torch's varlen kernels for packs, flash attention for tiles; in the place of `choose_backend`."""
    plan = partial(TwoPassPlan.of, kernel=TorchVarlen())
    return Backend(name="varlen", vision=_TILES_ATTENTION, plan=plan, announcement="traced")


def _attend_tiles(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    **ignored: object,
) -> tuple[torch.Tensor, None]:
    out = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scaling)[0]
    return out.transpose(1, 2), None


def _operations(wanted: str, device: torch.device) -> Operations:
    if wanted == "plain":
        return PLAIN
    return Operations(
        name="liger",
        rms_norm=_RmsNorm.apply,
        swiglu=_Swiglu.apply,
        rotary=_Rotary.apply,
        cross_entropy=_CrossEntropy.apply,
    )


class _RmsNorm(torch.autograd.Function):
    """Keeps what Liger's RMSNorm keeps: states, weight, and a float32 a row."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        ctx.save_for_backward(states, weight, states.new_empty(states.shape[:-1], dtype=torch.float32))
        return torch.empty_like(states)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight, _ = ctx.saved_tensors
        return torch.empty_like(states), torch.empty_like(weight), None


class _Swiglu(torch.autograd.Function):
    """Keeps both its inputs, and writes their gradients over them."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(ctx.saved_tensors)


class _Rotary(torch.autograd.Function):
    """Keeps the angles."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        return torch.empty_like(query), torch.empty_like(key)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*gradients, None, None)


class _CrossEntropy(torch.autograd.Function):
    """Keeps the logits, and of each row its target and two float32."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = logits.new_empty(len(logits), 2, dtype=torch.float32)
        ctx.save_for_backward(logits, targets, rows)
        return rows[:, 0].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits, _, _ = ctx.saved_tensors
        return torch.empty_like(logits), None
