"""A model directory's weights in, tensor by tensor; sharded safetensors and configuration of an export out."""

import re
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from models.loading import Blank
from models.saving import disk_keys
from models.sharded_safetensors import ShardedWriter

M = TypeVar("M", bound=PreTrainedModel)

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB)")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def size_in_bytes(text: str) -> int:
    """`500MB` or `5GB`, as transformers writes shard sizes, in bytes.

    Raises:
        ValueError: text of another form.
    """
    match = _SIZE.fullmatch(text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"shard size: got {text!r}, expected a number above 0 and KB, MB or GB, such as 5GB")
    return round(float(match[1]) * _UNITS[match[2]])


def write_weights(
    blank: Blank[M],
    directory: Path,
    generation: GenerationConfig,
    *,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
) -> None:
    """Write config.json, generation_config.json and safetensors; one tensor is held in memory.

    Args:
        blank: the model without its weights, and where they are.
        dtype: of the written weights; each as it is stored where None.
        max_shard_bytes: a file holds no more, unless a single tensor is larger.

    Raises:
        ModelError: weights that cannot be read.
    """
    model = blank.model
    keys = disk_keys(model)
    dtypes: set[torch.dtype] = set()
    with ShardedWriter(directory, max_shard_bytes=max_shard_bytes) as writer:
        for name, key in keys.items():
            value = blank.weights.read(name)
            value = value if dtype is None else value.to(dtype)
            dtypes.add(value.dtype)
            writer.add(key, value)
    model.config.dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    generation.save_pretrained(directory)


def num_parameters(model: nn.Module) -> int:
    """Of a model, a tied one counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
