"""Pack attention as transformers calls it: query, key, value and a layout in, attention outputs out.

Shape suffixes: N tokens of a pack, H query heads, K key-value heads, D head width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import InternVLForConditionalGeneration
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from models.attention.layout import PackLayout

PACK_ATTENTION = "drivlm_pack"
"""Name in transformers' attention registry, whatever the backend. It has no entry in the mask registry, so that the
language model builds no causal mask of its own for it: the layout is the only mask there is."""


def register_pack_attention() -> None:
    """Make `PACK_ATTENTION` known to transformers; may be called any number of times."""
    ALL_ATTENTION_FUNCTIONS.register(PACK_ATTENTION, pack_attention)


def pack_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack_layout: PackLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention by the backend that the layout was planned for.

    Args:
        query: [1, H, N, D]; key, value: [1, K, N, D] with H a multiple of K.
        attention_mask: always None, see `PACK_ATTENTION`.
        pack_layout: the layout, handed through the language model's keyword arguments.

    Returns:
        [1, N, H, D] and None, as transformers expects.
    """
    assert pack_layout is not None, f"{PACK_ATTENTION} was called without a layout; see `attention_set_to`"
    assert attention_mask is None, "a pack has no mask of its own"
    assert query.shape[0] == 1, f"a pack is one row, got {query.shape[0]}"
    assert query.shape[2] == key.shape[2] == pack_layout.groups[-1][1], "a pack is attended whole, without a cache"
    return pack_layout.plan.attend(query, key, value, scale=scaling, dropout=dropout), None


@contextmanager
def attention_set_to(vlm: InternVLForConditionalGeneration, name: str) -> Iterator[None]:
    """Run the language model under the attention function `name` ("sdpa" is stock), then put the former one back."""
    language = vlm.model.language_model
    former = language.config._attn_implementation
    language.set_attn_implementation(name)
    try:
        yield
    finally:
        language.set_attn_implementation(former)
