"""Distillation: tiles in, the student's distance to the frozen teacher out, on hidden states and on codebook logits.

Shape suffixes: T tiles, P patches of a tile, N tokens of a tile (CLS and patches), E teacher width, F features.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import InternVLVisionModel

from data_shards.collate import Batch
from models.attention import choose_backend
from models.blanks import stored_vision
from models.distill_heads import Codebook, DistillStudent, spherical_kmeans
from models.loading import WHOLE, Blank, HeldWeights, fill
from models.vision import TowerFeatures, add_drop_path, normalise_tiles
from trainer.dist import compute_device
from trainer.engine import Partition
from trainer.losses import negative_cosine, patch_kl
from trainer.recipe import Recipe
from trainer.stages.base import Forward, LossOut, Preparation, Stage
from trainer.stages.sources import StageError, model_directory, vision_from

CODEBOOK_FILE = "codebook.safetensors"
PARTITIONED_BYTES = 2_000_000_000
"""Teachers above this size are partitioned under ZeRO-3 where the recipe leaves it open."""


class DistillStage(Stage):
    """A student tower learns a frozen teacher tower, which is outside the engine, whole or partitioned on its own."""

    modules: ClassVar[Mapping[str, str]] = {"tower.": "vision", "bridges.": "bridge"}

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        """Make both towers.

        Args:
            recipe: of this stage.
            dtype: both compute in it.

        Raises:
            StageError: a model that is missing, or towers and tiles that do not fit together.
        """
        generator = torch.Generator().manual_seed(recipe.seed)
        assert recipe.model.teacher, "load_recipe checks what a stage needs"
        assert recipe.model.student, "load_recipe checks what a stage needs"
        self._teacher = stored_vision(model_directory("model.teacher", recipe.model.teacher))
        self.teacher = self._teacher.model
        self._teacher_features: Forward = TowerFeatures(self.teacher)
        tower = vision_from("model.student", recipe.model.student, generator)
        _check_fit(recipe, self.teacher, tower.model)
        add_drop_path(tower.model, recipe.model.drop_path)
        self._announcement = _choose_attention(recipe, (self.teacher, tower.model), dtype)
        student = DistillStudent(tower.model, self.teacher.config.hidden_size, recipe.distill.last_k, generator)
        blanks = (tower, Blank(student.bridges, HeldWeights(student.bridges)))
        frozen = {"model.teacher": self._teacher.weights}
        super().__init__(recipe, student, text=None, blanks=blanks, dtype=dtype, frozen=frozen)
        self.codebook: Codebook | None = None

    def notes(self) -> tuple[str, ...]:
        return (self._announcement,)

    def load(self, partition: Partition | None = None) -> None:
        """See `Stage`; the teacher is partitioned as `distill.teacher_placement` says.

        Raises:
            StageError: a partitioned teacher is asked for where nothing is partitioned.
        """
        super().load(partition)
        if self._divides_teacher(partition):
            assert partition is not None
            fill(self._teacher, self.dtype, partition)
            self._teacher_features = partition.serve(TowerFeatures(self.teacher))
        else:
            fill(self._teacher, self.dtype, WHOLE)

    def _divides_teacher(self, partition: Partition | None) -> bool:
        placement = self.recipe.distill.teacher_placement
        if partition is None and placement == "partition":
            raise StageError(
                "distill.teacher_placement: got partition, which needs ZeRO-3, expected auto or replicate under this "
                "DeepSpeed configuration; choose one, or a configuration with zero_optimization.stage 3"
            )
        size = sum(parameter.numel() for parameter in self.teacher.parameters()) * self.dtype.itemsize
        return partition is not None and (
            placement == "partition" or (placement == "auto" and size > PARTITIONED_BYTES)
        )

    def prepare(self, preparation: Preparation) -> None:
        """Move a whole teacher to the device; fit the codebook, or read the one this run already has."""
        if isinstance(self._teacher_features, TowerFeatures):
            torch.nn.Module.to(self.teacher, preparation.device)
        if not self.recipe.distill.patch_logits:
            return
        path = preparation.run_dir / CODEBOOK_FILE
        if not preparation.ranks.on_main(path.is_file):
            features_FE = self._codebook_features(preparation)
            preparation.ranks.on_main(lambda: self._fit(features_FE, path))
        try:
            prototypes = load_file(path)["prototypes"]
        except (OSError, SafetensorError, KeyError) as error:
            raise StageError(f"{path}: not a codebook ({error}); remove the file and start anew") from error
        self.codebook = Codebook(prototypes).to(preparation.device)

    def weight(self, batch: Batch) -> float:
        return float(batch.meta.num_tiles)

    def loss(self, forward: Forward, batch: Batch, device: torch.device) -> LossOut:
        terms = self.recipe.distill
        pixels = normalise_tiles(batch.tiles.to(device, non_blocking=True), self.teacher.dtype)
        teacher_TNE = self._teacher_features(pixels, self.recipe.distill.last_k)
        student_TNE = forward(pixels)
        total = pixels.new_zeros((), dtype=torch.float32)
        metrics: dict[str, tuple[torch.Tensor, float]] = {}
        if terms.features:
            pairs = zip(student_TNE, teacher_TNE, strict=True)
            features = torch.stack([negative_cosine(own, target) for own, target in pairs]).mean()
            total = total + terms.features * features
            metrics["features"] = (features, self.weight(batch))
        if terms.patch_logits:
            patch_logits = patch_kl(self._logits(student_TNE[-1]), self._logits(teacher_TNE[-1]), terms.temperature)
            total = total + terms.patch_logits * patch_logits
            metrics["patch_logits"] = (patch_logits, self.weight(batch))
        return LossOut(total=total, metrics=metrics)

    def metric_names(self) -> tuple[str, ...]:
        return ("features", "patch_logits")

    def exported(self) -> InternVLVisionModel:
        assert isinstance(self.model, DistillStudent)
        return self.model.tower

    def save_extras(self, directory: Path) -> None:
        """Nothing: a tower is complete by itself."""

    def _logits(self, states_TNE: torch.Tensor) -> torch.Tensor:
        assert self.codebook is not None, "prepare was not called"
        return self.codebook(states_TNE[:, 1:].float(), self.recipe.distill.codebook_temperature)

    def _codebook_features(self, preparation: Preparation) -> torch.Tensor:
        """The teacher's patch features of the plan's first packs, on every rank: a partitioned teacher needs them all.

        Raises:
            StageError: fewer than codebook entries.
        """
        settings = self.recipe.distill
        features, num_tiles = [], 0
        for batch in preparation.first_batches():
            pixels = normalise_tiles(batch.tiles.to(preparation.device), self.teacher.dtype)
            features.append(self._teacher_features(pixels, 1)[0][:, 1:].flatten(0, 1).float().cpu())
            num_tiles += len(batch.tiles)
            if num_tiles >= settings.codebook_tiles:
                break
        features_FE = torch.cat(features)
        if len(features_FE) < settings.codebook_size:
            raise StageError(
                f"distill.codebook_size: got {settings.codebook_size}, more than the {len(features_FE)} patches of "
                f"{num_tiles} tiles; lower it or raise distill.codebook_tiles"
            )
        return features_FE

    @torch.no_grad()
    def _fit(self, features_FE: torch.Tensor, path: Path) -> None:
        """Spherical k-means over the teacher's patch features."""
        settings = self.recipe.distill
        generator = torch.Generator().manual_seed(self.recipe.seed)
        prototypes = spherical_kmeans(features_FE, settings.codebook_size, settings.codebook_iterations, generator)
        partial = path.with_name(path.name + ".partial")
        save_file({"prototypes": prototypes.contiguous()}, partial)
        os.replace(partial, path)


def _check_fit(recipe: Recipe, teacher: InternVLVisionModel, student: InternVLVisionModel) -> None:
    tile = recipe.data.view.tile_size
    sizes = {
        "model.teacher": _pair(teacher.config.image_size),
        "model.student": _pair(student.config.image_size),
        "data.view.tile_size": (tile, tile),
    }
    if len(set(sizes.values())) > 1:
        raise StageError(f"tile sizes differ: {sizes}; teacher, student and data.view.tile_size have to agree")
    if _pair(teacher.config.patch_size) != _pair(student.config.patch_size):
        raise StageError(
            f"model.student: patch size {student.config.patch_size}, expected the teacher's {teacher.config.patch_size}"
        )
    layers = min(teacher.config.num_hidden_layers, student.config.num_hidden_layers)
    if recipe.distill.last_k > layers:
        raise StageError(f"distill.last_k: got {recipe.distill.last_k}, expected at most the {layers} layers there are")


def _pair(size: int | Sequence[int]) -> tuple[int, ...]:
    """A height and width, however the configuration holds them: a preset as a tuple, a file as a list."""
    return (size, size) if isinstance(size, int) else tuple(size)


def _choose_attention(recipe: Recipe, towers: Sequence[InternVLVisionModel], dtype: torch.dtype) -> str:
    """Set both towers' kernels; returns what to announce."""
    widths = [tower.config.hidden_size // tower.config.num_attention_heads for tower in towers]
    backend = choose_backend(recipe.model.attention, compute_device(), dtype, max(widths))
    for tower in towers:
        tower.set_attn_implementation(backend.vision)
    return backend.announcement
