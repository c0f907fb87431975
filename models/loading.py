"""Model directories and stock classes in; models without weights, and the same models filled one by one out.

A `Blank` costs no memory: its parameters are on the meta device. Its keys are compared with the files' headers before
anything is read, so that every rank of a distributed run meets the same error before the first collective.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from models.drawn import DrawnWeights, parameters_on_meta
from models.sharded_safetensors import INDEX_FILE, SINGLE_FILE, ShardedReader

M = TypeVar("M", bound=nn.Module)
P = TypeVar("P", bound=PreTrainedModel)

CONFIG = "config.json"
HEAD = "lm_head.weight"
"""Of a tied model it is no parameter of its own."""


class ModelError(ValueError):
    """A model directory that cannot be loaded as what it should be; the message names directory and fix."""


class Files(Protocol):
    """What is read from files, if any."""

    @property
    def files(self) -> tuple[Path, ...]: ...


class Weights(Files, Protocol):
    """Where the parameters of a model come from."""

    def read(self, name: str) -> torch.Tensor:
        """A whole parameter by its name in the model."""


class Placement(Protocol):
    """Where parameters go: whole into this process, or a part of each to every rank."""

    @property
    def device(self) -> torch.device:
        """Of buffers."""

    def place(self, parameter: nn.Parameter, dtype: torch.dtype, read: Callable[[], torch.Tensor]) -> None:
        """Give a parameter on the meta device its value; it stays the same Python object."""


class Whole:
    """Every process reads every parameter, and holds it on the CPU."""

    device = torch.device("cpu")

    def place(self, parameter: nn.Parameter, dtype: torch.dtype, read: Callable[[], torch.Tensor]) -> None:
        """See `Placement`."""
        give(parameter, read().to(dtype))


WHOLE = Whole()


@dataclass(frozen=True)
class Blank(Generic[M]):
    """A model whose parameters are on the meta device, and where their values are; its buffers are complete."""

    model: M
    weights: Weights


def give(parameter: nn.Parameter, value: torch.Tensor) -> None:
    """Put a value in the place of a parameter's own, which may be on another device or of another dtype."""
    assert parameter.shape == value.shape, f"got {tuple(value.shape)}, expected {tuple(parameter.shape)}"
    torch.utils.swap_tensors(parameter, nn.Parameter(value, requires_grad=parameter.requires_grad))


def fill(blank: Blank[M], dtype: torch.dtype = torch.float32, placement: Placement = WHOLE) -> M:
    """Place all parameters in `dtype`, one after the other; buffers keep theirs and go to the placement's device."""
    for name, parameter in blank.model.named_parameters():
        placement.place(parameter, dtype, functools.partial(blank.weights.read, name))
    for buffer in blank.model.buffers():
        buffer.data = buffer.data.to(placement.device)
    if isinstance(blank.model, PreTrainedModel):
        _set_dtype(blank.model.config, dtype)
    return blank.model


def drawn(build: Callable[[], P], config: PreTrainedConfig, generator: torch.Generator) -> Blank[P]:
    """A model whose weights `build` would draw; one number is taken from `generator`, however large the model is."""
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    _set_dtype(config, torch.float32)
    return Blank(_on_meta(build), DrawnWeights(build, seed))


def stored(cls: type[P], path: Path) -> Blank[P]:
    """A model of a directory with config.json and safetensors, in either spelling of keys that transformers knows.

    Raises:
        ModelError: no such model there, or weights that do not fit its configuration; all of them are listed.
    """
    known = model_architectures(path)
    if known and cls.__name__ not in known:
        raise ModelError(f"{path / CONFIG}: field 'architectures': got {known}, expected {cls.__name__}")
    try:
        config = cls.config_class.from_pretrained(path, local_files_only=True)  # type: ignore[union-attr]
        _set_dtype(config, torch.float32)
        model = _on_meta(lambda: cls(config))
        if model.can_generate() and (path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(f"{path / CONFIG}: no configuration of {cls.__name__}: {error}") from error
    try:
        reader = ShardedReader(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: weights of {cls.__name__} cannot be loaded: {error}") from error
    return Blank(model, StoredWeights(reader, _match(model, reader, path)))


class StoredWeights:
    """Weights in safetensors files; `keys` gives each parameter's key there."""

    def __init__(self, reader: ShardedReader, keys: Mapping[str, str]) -> None:
        self._reader = reader
        self._keys = keys

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or the shards in order of their names."""
        single, index = self._reader.path / SINGLE_FILE, self._reader.path / INDEX_FILE
        if single.is_file():
            return (single,)
        shards = set(json.loads(index.read_text())["weight_map"].values())
        return tuple(self._reader.path / shard for shard in sorted(shards))

    def read(self, name: str) -> torch.Tensor:
        """See `Weights`.

        Raises:
            ModelError: the file cannot be read any more.
        """
        try:
            return self._reader.tensor(self._keys[name])
        except (OSError, ValueError) as error:
            raise ModelError(f"{self._keys[name]}: cannot be read: {error}") from error


class HeldWeights:
    """Weights of a model in memory; they are copied."""

    files: tuple[Path, ...] = ()

    def __init__(self, model: nn.Module) -> None:
        self._state = model.state_dict()

    def read(self, name: str) -> torch.Tensor:
        """See `Weights`."""
        return self._state[name].clone()


@dataclass(frozen=True)
class RoutedWeights:
    """Weights of several sources: (prefix in this model, source, prefix there), tried in order.

    A single route with an empty prefix hands out part of a larger model.
    """

    routes: Sequence[tuple[str, Weights, str]]

    @property
    def files(self) -> tuple[Path, ...]:
        """Of all sources."""
        return tuple(file for _, source, _ in self.routes for file in source.files)

    def read(self, name: str) -> torch.Tensor:
        """See `Weights`."""
        prefix, source, own = next(route for route in self.routes if name.startswith(route[0]))
        return source.read(own + name.removeprefix(prefix))


def model_architectures(path: Path) -> list[str]:
    """The class names in a model directory's config.json.

    Raises:
        ModelError: no readable config.json there.
    """
    file = path / CONFIG
    if not file.is_file():
        raise ModelError(f"{file}: no such file, expected a saved model; give the directory that holds config.json")
    try:
        return list(json.loads(file.read_text()).get("architectures") or [])
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"{file}: got text that is no JSON object ({error}), expected a model configuration"
        ) from error


def _on_meta(build: Callable[[], M]) -> M:
    with torch.random.fork_rng(devices=[]), parameters_on_meta():
        return build()


def _match(model: PreTrainedModel, reader: ShardedReader, path: Path) -> dict[str, str]:
    """The key of each parameter; what is missing, left over, double or of another shape is refused."""
    parameters = dict(model.named_parameters())
    ties = dict(model.all_tied_weights_keys)
    names = _parameter_names(model, reader.names)
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    keys: dict[str, str] = {}
    extra, double = [], []
    for key, name in names.items():
        if name in keys:
            double.append(f"{key} and {keys[name]}")
        elif name in parameters or name in ties:
            keys[name] = key
        elif not any(pattern.search(key) for pattern in ignored):
            extra.append(key)
    _refuse_ties(model, ties, keys, path)
    shapes = {name: (tuple(reader.shape(key)), tuple(parameters[name].shape)) for name, key in keys.items()}
    problems = {
        "missing": sorted(set(parameters) - set(keys)),
        "unexpected": sorted(extra),
        "given twice": sorted(double),
        "misshapen": sorted(f"{keys[n]}: got {got}, expected {own}" for n, (got, own) in shapes.items() if got != own),
    }
    found = "; ".join(f"{kind}: {', '.join(lines)}" for kind, lines in problems.items() if lines)
    if found:
        hint = ""
        if HEAD in problems["missing"]:
            hint = " Without an output layer in the weights, tie_word_embeddings would have to be true: is it mis-set?"
        raise ModelError(
            f"{path}: weights do not fit {type(model).__name__} as {CONFIG} describes it: {found}; is the checkpoint "
            f"of another model, or its config.json?{hint}"
        )
    return keys | {tied: keys[name] for tied, name in ties.items()}


def _refuse_ties(model: PreTrainedModel, ties: Mapping[str, str], keys: Mapping[str, str], path: Path) -> None:
    own = [tied for tied in ties if tied in keys]
    if own:
        raise ModelError(
            f"{path / CONFIG}: field 'tie_word_embeddings': got true, expected false, since the weights hold "
            f"{', '.join(keys[tied] for tied in own)} of their own; set it false (InternVLConfig takes true where it "
            "is not given)"
        )


def _parameter_names(model: PreTrainedModel, keys: Iterable[str]) -> dict[str, str]:
    """Key on disk to name in the model, by transformers' own table: a saved InternVL has legacy spellings."""
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    assert not converters, f"{type(model).__name__}: transformers merges or splits its weights, which is not streamed"
    state: dict[str, Any] = model.state_dict()
    return {key: rename_source_key(key, renamings, [], model.base_model_prefix, state)[0] for key in keys}


def _set_dtype(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """As `from_pretrained` does: of the configuration and of those in it."""
    config.dtype = dtype
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            part.dtype = dtype
