"""DeepSpeed, for the files of `trainer/engine*`: the only place that imports it, and only when an engine needs it."""

import logging
from typing import Any

from trainer.dist import num_gpus


def import_deepspeed() -> Any:
    """The package, set up: warnings only, and no collective that would have to be compiled."""
    import deepspeed  # noqa: PLC0415

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not num_gpus():
        # Only DeepSpeed's tensor-parallel inference uses the shared-memory collective; without it nothing is compiled.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def build_errors() -> tuple[type[Exception], ...]:
    """What DeepSpeed raises where it cannot compile an operation, and elsewhere."""
    from deepspeed.ops.op_builder.builder import MissingCUDAException  # noqa: PLC0415

    return (RuntimeError, OSError, ImportError, MissingCUDAException)
