"""A model that the ranks hold, divided or not, in; a directory with its weights and configuration out."""

import functools
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from transformers import PreTrainedModel

from models.saving import ModelWriter
from trainer.dist import Ranks
from trainer.engine_partition import whole_parameters


def write_model(
    model: PreTrainedModel, ranks: Ranks, directory: Path, extras: Callable[[Path], None] | None = None
) -> None:
    """Write a stock model, partitioned or not, whole or not at all; called on all ranks.

    Each rank holds its parts, the main one also one whole parameter.

    Args:
        model: part of what the engine trains.
        ranks: all of this run.
        directory: replaced if it exists.
        extras: writes further files into the directory it is given.
    """
    partial = directory.with_name(directory.name + ".partial")
    writers: list[ModelWriter] = []

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        removal.callback(shutil.rmtree, partial, ignore_errors=True)
        writers.append(writing.enter_context(ModelWriter(model, partial)))

    def finish() -> None:
        writing.close()
        if extras is not None:
            extras(partial)
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(partial, directory)

    with ExitStack() as removal, ExitStack() as writing:
        ranks.on_main(begin)
        for name, value in whole_parameters(model, ranks):
            ranks.on_main(functools.partial(_add, writers, name, value))
        ranks.on_main(finish)


def _add(writers: list[ModelWriter], name: str, value: torch.Tensor | None) -> None:
    assert value is not None, "the main rank has every parameter whole"
    writers[0].add(name, value)
