"""What a stage is: which model is trained, on what loss, with which parameters; it never steps, logs or saves."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from data_shards.collate import Batch
from data_shards.cost import CostModel
from data_shards.loader import TextSettings
from models.checkpointing import checkpoint_layers, num_checkpointed
from models.loading import WHOLE, Blank, Files, fill
from trainer.dist import Ranks
from trainer.engine_partition import Partition
from trainer.freeze import freeze, let_gradients_in
from trainer.optim import ParamGroup, parameter_groups
from trainer.recipe import Recipe
from trainer.utilisation import TrainFlops

Forward = Callable[..., Any]
"""The engine, or a bare model: called like the model's forward."""

Metrics = Mapping[str, tuple[torch.Tensor, torch.Tensor | float]]
"""Name to (sum, weight), for exact means over steps and ranks."""


@dataclass(frozen=True, kw_only=True)
class LossOut:
    """Loss of one micro batch.

    Attributes:
        total: scalar sum over the micro batch, with graph; divided by the weight of all of the step it is the mean.
        second: a further such sum, which is divided by the second weight of all of the step; the loss is both means.
        metrics: see `Metrics`.
        predicted: int64 [M], the likeliest token at each label, where the stage has any.
        flops: of forward and backward passes.
    """

    total: torch.Tensor
    second: torch.Tensor | None = None
    metrics: Metrics = field(default_factory=dict)
    predicted: torch.Tensor | None = None
    flops: TrainFlops = TrainFlops()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """For TensorBoard: an image, uint8 [H, W, 3] in RGB, and its text."""

    name: str
    image: np.ndarray
    caption: str


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a stage may use before its first step.

    Attributes:
        ranks: all of this run.
        device: where models compute.
        run_dir: shared by all ranks.
        first_batches: a fresh iterator over the first packs of the plan, the same on every rank.
        inputs: what `hashes.weights_record` says of `Stage.bases`, where that is known; it saves hashing them again.
    """

    ranks: Ranks
    device: torch.device
    run_dir: Path
    first_batches: Callable[[], Iterable[Batch]]
    inputs: Mapping[str, Any] = field(default_factory=dict)


class Stage(ABC):
    """One stage of training.

    Attributes:
        recipe: of this run.
        model: what the engine wraps; its weights come with `load`.
        text: how questions become tokens; None for stages on images only.
        blanks: the parts of `model`, and where their weights come from.
        dtype: of all parameters.
        frozen: recipe field to files, of parts that are not trained.
        datasets: names of those trained and validated on.
        modules: prefix of parameter names to module name, for learning rates and the table.
    """

    modules: ClassVar[Mapping[str, str]]

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        text: TextSettings | None,
        *,
        blanks: Sequence[Blank],
        dtype: torch.dtype,
        frozen: Mapping[str, Files],
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.text = text
        self.blanks = blanks
        self.dtype = dtype
        self.frozen = frozen
        sections = (*recipe.data.datasets, *recipe.validation.datasets)
        self.datasets = tuple(dict.fromkeys(dataset.name for dataset in sections))
        freeze(model, recipe.model.freeze)
        for layers in self.layers().values():
            let_gradients_in(layers)
        for module in ("vision", "language"):
            checkpoint_layers(list(self.layers().get(module, ()))[: self.num_checkpointed(module)])

    @abstractmethod
    def layers(self) -> Mapping[str, nn.ModuleList]:
        """Layers whose activations may be checkpointed, by module: `vision` and `language`, if there is one."""

    def num_checkpointed(self, module: str) -> int:
        """How many of a module's layers are checkpointed.

        Raises:
            CheckpointingError: the recipe asks for more than there are.
        """
        wanted = getattr(self.recipe.model.checkpointing, module)
        assert wanted != "auto", "trainer.settle puts numbers in its place"
        return num_checkpointed(f"model.checkpointing.{module}", wanted, list(self.layers().get(module, ())))

    def share_run_again(self, module: str) -> float:
        """The checkpointed layers of a module over all of it."""
        return self.num_checkpointed(module) / max(len(self.layers().get(module, ())), 1)

    def load(self, partition: Partition | None = None) -> None:
        """Give the model its weights: whole on this rank, or this rank's part of each; called on all ranks.

        Raises:
            ModelError, MainRankError: files that can no longer be read.
        """
        for blank in self.blanks:
            fill(blank, self.dtype, partition or WHOLE)

    def bases(self) -> dict[str, Files]:
        """What untrained weights are read from: `frozen`, and parts of which not every parameter is trained."""
        known = {file for part in self.frozen.values() for file in part.files}
        partly = [blank for blank in self.blanks if not all(p.requires_grad for p in blank.model.parameters())]
        others = {f"part {i}": b.weights for i, b in enumerate(partly) if not known.issuperset(b.weights.files)}
        return {**self.frozen, **others}

    def notes(self) -> tuple[str, ...]:
        """What was chosen for this machine, to be announced."""
        return ()

    def cost(self) -> CostModel:
        """What packs cost, by which they are balanced over ranks."""
        return CostModel(token=0.0, tile=1.0)

    @abstractmethod
    def weight(self, batch: Batch) -> float:
        """Weight of a micro batch in the mean, known without a forward pass."""

    def second_weight(self, batch: Batch) -> float:
        """Weight of a micro batch in the mean of `LossOut.second`, for stages that have one."""
        return 0.0

    @abstractmethod
    def loss(self, forward: Forward, batch: Batch, device: torch.device) -> LossOut:
        """Loss of a micro batch that comes from the loader, on the CPU."""

    @abstractmethod
    def flops(self, batch: Batch) -> TrainFlops:
        """Of the loss of a micro batch that comes from the loader, forward and backward."""

    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """Every metric `loss` can give."""

    @abstractmethod
    def exported(self) -> PreTrainedModel:
        """The stock model, part of `model`, that is written to `RUN_DIR/model` at the end; training is over then."""

    def parameter_groups(self) -> list[ParamGroup]:
        """What is trained, with rates and decay; to be asked before `load`, which may partition parameters."""
        return parameter_groups(self.model.named_parameters(), self.modules, self.recipe.optim)

    def train_mode(self) -> None:
        """Trained modules to training mode; those without a trained parameter to evaluation mode."""
        self.model.train()
        for module in self.model.modules():
            trained = [parameter.requires_grad for parameter in module.parameters()]
            if trained and not any(trained):
                module.eval()

    @abstractmethod
    def prepare(self, preparation: Preparation) -> None:
        """Work that needs data or the device, after the engine is made and before the first step."""

    def prepared(self) -> dict[str, Files]:
        """Files that `prepare` made, by recipe field: a checkpoint is continued with these alone."""
        return {}

    @abstractmethod
    def save_extras(self, directory: Path) -> None:
        """Files beside the model's weights, such as the tokenizer; called on the main rank."""

    def picture(self, batch: Batch, out: LossOut) -> Picture | None:
        """What to show of a micro batch, if anything."""
        return None
