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
from models.distill_heads import Codebook, DistillStudent, spherical_kmeans
from models.vision import add_drop_path, normalise_tiles, patch_features
from models.vlm import load_vision
from trainer.losses import negative_cosine, patch_kl
from trainer.recipe import Recipe
from trainer.stages.base import Forward, LossOut, Preparation, Stage
from trainer.stages.sources import StageError, model_directory, vision_from

CODEBOOK_FILE = "codebook.safetensors"


class DistillStage(Stage):
    """A student tower learns a frozen teacher tower; the teacher is replicated on every rank, outside the engine."""

    modules: ClassVar[Mapping[str, str]] = {"tower.": "vision", "bridges.": "bridge"}

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        """Load the teacher and make the student.

        Args:
            recipe: of this stage.
            dtype: the teacher computes in it.

        Raises:
            StageError: a model that is missing, or towers and tiles that do not fit together.
        """
        generator = torch.Generator().manual_seed(recipe.seed)
        assert recipe.model.teacher, "load_recipe checks what a stage needs"
        assert recipe.model.student, "load_recipe checks what a stage needs"
        self.teacher = load_vision(model_directory("model.teacher", recipe.model.teacher), dtype)
        self.teacher.requires_grad_(False).eval()
        tower = vision_from("model.student", recipe.model.student, generator)
        _check_fit(recipe, self.teacher, tower)
        add_drop_path(tower, recipe.model.drop_path)
        student = DistillStudent(tower, self.teacher.config.hidden_size, recipe.distill.last_k, generator)
        super().__init__(recipe, student, text=None)
        self.codebook: Codebook | None = None

    def prepare(self, preparation: Preparation) -> None:
        """Move the teacher to the device; fit the codebook, or read the one this run already has."""
        torch.nn.Module.to(self.teacher, preparation.device)
        if not self.recipe.distill.patch_logits:
            return
        path = preparation.run_dir / CODEBOOK_FILE
        preparation.ranks.on_main(lambda: None if path.is_file() else self._fit(preparation, path))
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
        teacher_TNE = self._teacher_states(pixels)
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

    @torch.no_grad()
    def _teacher_states(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return patch_features(self.teacher, pixels, self.recipe.distill.last_k)

    def _logits(self, states_TNE: torch.Tensor) -> torch.Tensor:
        assert self.codebook is not None, "prepare was not called"
        return self.codebook(states_TNE[:, 1:].float(), self.recipe.distill.codebook_temperature)

    @torch.no_grad()
    def _fit(self, preparation: Preparation, path: Path) -> None:
        """Spherical k-means over the teacher's patch features of the plan's first packs."""
        settings = self.recipe.distill
        features, num_tiles = [], 0
        for batch in preparation.first_batches():
            pixels = normalise_tiles(batch.tiles.to(preparation.device), self.teacher.dtype)
            features.append(patch_features(self.teacher, pixels, 1)[0][:, 1:].flatten(0, 1).float().cpu())
            num_tiles += len(batch.tiles)
            if num_tiles >= settings.codebook_tiles:
                break
        features_FE = torch.cat(features)
        if len(features_FE) < settings.codebook_size:
            raise StageError(
                f"distill.codebook_size: got {settings.codebook_size}, more than the {len(features_FE)} patches of "
                f"{num_tiles} tiles; lower it or raise distill.codebook_tiles"
            )
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
