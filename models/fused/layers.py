"""Stock layers and an implementation of the fused operations in; the same layers that compute with it out.

Only `forward` is replaced, on the objects: hooks of the modules, by which ZeRO-3 gathers parameters, run as before, and
parameters, state and configuration stay what they were. A test holds each to the stock forward.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.internvl.modeling_internvl import InternVLVisionLayer, InternVLVisionRMSNorm
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    eager_attention_forward,
)

from models.fused.operations import Operations


def use_fused(model: nn.Module, operations: Operations) -> int:
    """Let every layer of these kinds inside `model` compute with `operations`; returns how many modules do now."""
    if operations.name == "plain":
        return 0
    changed = [module for module in model.modules() if type(module) in _FORWARDS and not _is_other_mlp(module)]
    for module in changed:
        assert "forward" not in vars(module), "layers are fused before they are checkpointed"
        module.forward = partial(_FORWARDS[type(module)], module, operations)
    return len(changed)


def release_fused(model: nn.Module) -> None:
    """Undo `use_fused`; layers that are checkpointed are left alone: they have to be released before."""
    for module in model.modules():
        forward = vars(module).get("forward")
        if isinstance(forward, partial) and forward.func is _FORWARDS.get(type(module)):
            vars(module).pop("forward")


def _is_other_mlp(module: nn.Module) -> bool:
    return isinstance(module, LlamaMLP) and module.config.hidden_act not in ("silu", "swish")


def _rms_norm(module: Any, operations: Operations, hidden_states: torch.Tensor) -> torch.Tensor:
    return operations.rms_norm(hidden_states, module.weight, module.variance_epsilon)


def _swiglu(module: LlamaMLP, operations: Operations, x: torch.Tensor) -> torch.Tensor:
    down: torch.Tensor = module.down_proj(operations.swiglu(module.gate_proj(x), module.up_proj(x)))
    return down


def _attention(
    module: LlamaAttention,
    operations: Operations,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    rows = hidden_states.shape[:-1]
    projections = (module.q_proj, module.k_proj, module.v_proj)
    query, key, value = (p(hidden_states).view(*rows, -1, module.head_dim).transpose(1, 2) for p in projections)
    query, key = operations.rotary(query, key, *position_embeddings)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, module.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    dropout = module.attention_dropout if module.training else 0.0
    out, weights = attend(module, query, key, value, attention_mask, dropout=dropout, scaling=module.scaling, **kwargs)
    return module.o_proj(out.reshape(*rows, -1).contiguous()), weights


def _vision_layer(module: Any, operations: Operations, hidden_states: torch.Tensor) -> torch.Tensor:
    """Scale of a branch and its sum with the residual in one pass."""
    attended, _ = module.attention(module.layernorm_before(hidden_states))
    hidden_states = torch.addcmul(hidden_states, attended, module.lambda_1)
    branch = module.dropout(module.mlp(module.layernorm_after(hidden_states)))
    return torch.addcmul(hidden_states, branch, module.lambda_2)


_FORWARDS: Mapping[type[nn.Module], Callable[..., Any]] = MappingProxyType(
    {
        LlamaRMSNorm: _rms_norm,
        InternVLVisionRMSNorm: _rms_norm,
        InternVLVisionLayer: _vision_layer,
        LlamaMLP: _swiglu,
        LlamaAttention: _attention,
    }
)
