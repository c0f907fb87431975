"""Attention of a decoding step whose rows share prefixes: each prefix's keys and values are kept once, however many
questions are asked of it.

Shape suffixes: F prefixes, P longest prefix, R rows, Q most rows of a prefix, S own tokens of a row, K key-value heads,
G query heads of each, D head width, X any last axis.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention

PREFIX_ATTENTION = "drivlm_shared_prefix"
"""Name in transformers' attention registry; like `PACK_ATTENTION` without an entry in the mask registry."""


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """Keys and values of every prefix, padded at the end: [F, K, P, D] for each layer, and bool [F, P]."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    visible: torch.Tensor

    def select(self, kept: torch.Tensor) -> "Prefixes":
        """Only the prefixes of these indices."""
        return Prefixes(
            keys=tuple(keys[kept] for keys in self.keys),
            values=tuple(values[kept] for values in self.values),
            visible=self.visible[kept],
        )


def register_prefix_attention() -> None:
    """Make `PREFIX_ATTENTION` known to transformers; may be called any number of times."""
    ALL_ATTENTION_FUNCTIONS.register(PREFIX_ATTENTION, prefix_attention)


def prefix_attention(
    module: LlamaAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    prefixes: Prefixes | None = None,
    slots: tuple[torch.Tensor, int] | None = None,
    own_visible: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """One query a row, over the row's prefix, kept once for all its rows, and over its own tokens.

    Args:
        query: [R, K * G, 1, D]; key, value: own tokens [R, K, S, D].
        attention_mask: always None.
        slots: see `Rows.slots`.
        own_visible: bool [R, S].

    Returns:
        [R, 1, K * G, D] and None.
    """
    assert attention_mask is None, "shared prefixes have masks of their own"
    assert prefixes is not None, f"{PREFIX_ATTENTION} was called without prefixes"
    assert slots is not None
    assert own_visible is not None
    slot, longest = slots
    prefix_keys, prefix_values = prefixes.keys[module.layer_idx], prefixes.values[module.layer_idx]
    num_prefixes, kv_heads, length, width = prefix_keys.shape
    q_RKGD = query.reshape(len(query), kv_heads, -1, width) * scaling

    def to_prefixes(rows_RKGX: torch.Tensor) -> torch.Tensor:
        table = rows_RKGX.new_zeros(num_prefixes * longest, *rows_RKGX.shape[1:])
        table[slot] = rows_RKGX
        return table.unflatten(0, (num_prefixes, longest)).transpose(1, 2).flatten(2, 3)

    def to_rows(table_FKX: torch.Tensor) -> torch.Tensor:
        table = table_FKX.unflatten(2, (longest, -1)).transpose(1, 2).flatten(0, 1)
        return table[slot]

    scores = to_prefixes(q_RKGD) @ prefix_keys.transpose(2, 3)
    scores = scores.masked_fill(~prefixes.visible[:, None, None], float("-inf"))
    own = (q_RKGD @ key.transpose(2, 3)).masked_fill(~own_visible[:, None, None], float("-inf"))
    precise = torch.promote_types(query.dtype, torch.float32)
    weights = torch.cat([to_rows(scores), own], dim=-1).softmax(dim=-1, dtype=precise).to(query.dtype)
    out = to_rows(to_prefixes(weights[..., :length]) @ prefix_values) + weights[..., length:] @ value
    return out.reshape(len(query), 1, -1, width), None
