"""Attention of packs and of tiles: lengths and a backend in, a layout that every layer of the language model obeys out.

`choose_backend` picks a backend at start; `pack_layout` plans a batch for it on the CPU; the layout travels to the
layers as a keyword argument and brings its backend along. The vision tower takes `Backend.vision` by
`set_attn_implementation`.
"""

from models.attention.base import AttentionError, Backend, BackendName, Group, Plan
from models.attention.choose import Wanted, choose_backend
from models.attention.layout import PackLayout, pack_layout
from models.attention.registry import PACK_ATTENTION, attention_set_to, pack_attention, register_pack_attention
from models.attention.sdpa import Run

__all__ = [
    "PACK_ATTENTION",
    "AttentionError",
    "Backend",
    "BackendName",
    "Group",
    "PackLayout",
    "Plan",
    "Run",
    "Wanted",
    "attention_set_to",
    "choose_backend",
    "pack_attention",
    "pack_layout",
    "register_pack_attention",
]
