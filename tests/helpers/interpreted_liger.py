"""Liger's own kernels on a CPU: `TRITON_INTERPRET=1 python -m tests.helpers.interpreted_liger` runs them by triton's
interpreter, and prints as JSON how far they are from float64 and from stock layers, and the bytes that autograd keeps.

A program of its own, since triton decides when it is imported whether it interprets or compiles.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
import triton.language as tl
from liger_kernel.ops import rms_norm
from liger_kernel.transformers import functional
from triton.runtime import interpreter

from models.fused import PLAIN, Operations
from models.fused.choose import liger_operations
from tests.helpers.fused import errors, pack_results, states
from tests.helpers.kept import kept_bytes


def make_interpretable() -> None:
    """Mend what triton's interpreter lacks: it hands numbers with a point to kernels as they are, without `to`, and has
    no functions of CUDA's libdevice, of which RMSNorm takes `rsqrt`."""
    plain = interpreter._implicit_cvt

    def converted(argument: Any) -> Any:
        if isinstance(argument, float):
            handle = interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32)
            return tl.tensor(handle, tl.float32)
        return plain(argument)

    interpreter._implicit_cvt = converted
    rms_norm.rsqrt = lambda value: tl.rsqrt(value)


def kept(operations: Operations) -> dict[str, int]:
    """Bytes that autograd keeps of 37 rows: of 96 numbers for RMSNorm, of 80 for SwiGLU, in bfloat16's size."""
    arguments, _ = states(torch.float16)
    (hidden, weight), others = arguments["rms_norm"]
    gate, up = (part.requires_grad_() for part in arguments["swiglu"][0])
    hidden.requires_grad_()
    return {
        "rms_norm": kept_bytes(lambda: operations.rms_norm(hidden, weight, *others)),
        "swiglu": kept_bytes(lambda: operations.swiglu(gate, up)),
    }


def pack_differences(operations: Operations) -> dict[str, float]:
    """Of a tiny model's logits and gradients to those through stock layers, of their norm."""
    _, stock, stock_gradients = pack_results(PLAIN)
    _, logits, gradients = pack_results(operations)
    return {
        "logits": float((logits - stock).norm() / stock.norm()),
        **{
            name: float((gradients[name] - wanted).norm() / wanted.norm().clamp_min(1e-6))
            for name, wanted in stock_gradients.items()
        },
    }


def main() -> int:
    """Run, print."""
    make_interpretable()
    liger = liger_operations(functional, "interpreted")
    found = {
        "float32": errors(liger, torch.float32),
        "float16": errors(liger, torch.float16),
        "kept": kept(liger),
        "pack": pack_differences(liger),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
