"""A stock model and its parameters one after the other in; the directory that transformers would have written out."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from models.sharded_safetensors import INDEX_FILE, SINGLE_FILE, ShardedWriter


class ModelWriter:
    """Writes config.json, generation settings and safetensors, holding one shard in memory.

    Keys are spelled as `save_pretrained` spells them, which is not always as the model names its parameters. Leaving
    the context after an exception removes what was written.
    """

    def __init__(self, model: PreTrainedModel, directory: Path) -> None:
        """Args: model: gives names and settings, not values: its parameters may be partitioned or on the meta device.

        Raises:
            WeightsFileError: the directory already holds weights.
        """
        self._model = model
        self._directory = directory
        self._keys = disk_keys(model)
        self._weights = ShardedWriter(directory)

    def add(self, name: str, value: torch.Tensor) -> None:
        """Take a copy of a parameter's whole value."""
        self._weights.add(self._keys.pop(name), value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._weights.__exit__(kind, error, trace)
        if kind is None:
            assert not self._keys, f"not written: {', '.join(self._keys)}"
            _save_settings(self._model, self._directory)


def save_model(model: PreTrainedModel, path: Path, *, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write a model's directory, over a former one; `state` replaces the model's own values."""
    _remove_weights(path)
    values = dict(model.named_parameters()) if state is None else state
    with ModelWriter(model, path) as writer:
        for name, _ in model.named_parameters():
            writer.add(name, values[name])


def disk_keys(model: PreTrainedModel) -> dict[str, str]:
    """Name of each parameter to its key in files, by transformers' own table."""
    parameters = dict(model.named_parameters())
    whole = set(dict(model.named_parameters(remove_duplicate=False)))
    assert set(model.state_dict()) == whole, "a model with persistent buffers, which are not written"
    stand_ins: dict[str, torch.Tensor] = {name: torch.empty(0, device="meta") for name in parameters}
    names = {id(stand_in): name for name, stand_in in stand_ins.items()}
    written = revert_weight_conversion(model, dict(stand_ins))
    keys = {names[id(stand_in)]: key for key, stand_in in written.items()}
    assert keys.keys() == parameters.keys(), "transformers merges or splits weights of this model"
    return keys


def _save_settings(model: PreTrainedModel, directory: Path) -> None:
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    if model.can_generate():
        model.generation_config.save_pretrained(directory)


def _remove_weights(directory: Path) -> None:
    index = directory / INDEX_FILE
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    for name in (SINGLE_FILE, *shards, INDEX_FILE):
        (directory / name).unlink(missing_ok=True)
