"""Fewer, larger kernels for what stands between the matrix products of a layer: RMSNorm, SwiGLU, rotary embeddings.

`choose_fused` picks an implementation at start; `use_fused` puts it into stock layers, `release_fused` takes it out.
"""

from models.fused.choose import FusedError, WantedKernels, choose_fused
from models.fused.layers import release_fused, use_fused
from models.fused.operations import PLAIN, Operations

__all__ = [
    "PLAIN",
    "FusedError",
    "Operations",
    "WantedKernels",
    "choose_fused",
    "release_fused",
    "use_fused",
]
