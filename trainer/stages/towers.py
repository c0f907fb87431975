"""A recipe in; the teacher's and the student's tower, without weights, and whether they fit together, out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import InternVLVisionConfig, InternVLVisionModel

from models.attention import choose_backend
from models.blanks import selected_vision, stored_vision
from models.fused import choose_fused, use_fused
from models.loading import Blank
from models.presets import VISION_PRESETS
from models.vision import TowerFeatures, add_drop_path, own_drop_path
from trainer.dist import compute_device
from trainer.recipe import Recipe
from trainer.stages.frozen import FrozenPart
from trainer.stages.sources import StageError, model_directory, vision_from


@dataclass(frozen=True, kw_only=True)
class TowerShape:
    """What a student has to know of its teacher.

    Attributes:
        width: of its hidden states.
        layers: whose states are known.
        tile_size, patch_size: in pixels.
    """

    width: int
    layers: int
    tile_size: int
    patch_size: int

    @classmethod
    def of(cls, config: InternVLVisionConfig) -> "TowerShape":
        """The shape of a configuration, which holds sizes as a number, a list or a tuple."""
        return cls(
            width=config.hidden_size,
            layers=config.num_hidden_layers,
            tile_size=_side(config.image_size),
            patch_size=_side(config.patch_size),
        )


def teacher_tower(recipe: Recipe) -> Blank[InternVLVisionModel]:
    """The recipe's teacher.

    Raises:
        StageError, ModelError: no tower there.
    """
    if recipe.model.teacher and recipe.model.teacher in VISION_PRESETS:
        return vision_from("model.teacher", recipe.model.teacher, torch.Generator().manual_seed(recipe.seed))
    field = "model.teacher" if recipe.model.teacher else "model.teacher_vlm"
    directory = recipe.model.teacher or recipe.model.teacher_vlm
    assert directory, "load_recipe checks what a stage needs"
    return stored_vision(model_directory(field, directory))


def frozen_tower(blank: Blank[InternVLVisionModel]) -> FrozenPart:
    """A tower as a part that gives features: called with pixels and a number of layers."""
    return FrozenPart(blank, TowerFeatures(blank.model))


def student_tower(
    recipe: Recipe, teacher: Blank[InternVLVisionModel] | None, generator: torch.Generator
) -> Blank[InternVLVisionModel]:
    """The student: fresh from a preset, from a directory, or some layers of the teacher.

    Raises:
        StageError, ModelError: neither a preset nor a tower there; more layers than the teacher has.
    """
    model = recipe.model
    if model.student:
        return vision_from("model.student", model.student, generator)
    assert teacher is not None, "load_recipe checks what a stage needs"
    try:
        return selected_vision(teacher, model.student_layers)
    except ValueError as error:
        raise StageError(f"model.student_{error} in the teacher") from error


def check_fit(recipe: Recipe, teacher: TowerShape, student: InternVLVisionConfig) -> None:
    """Refuse a teacher, a student and a view that do not see the same patches.

    Raises:
        StageError: they do not.
    """
    own, view = TowerShape.of(student), recipe.data.view.tile_size
    sizes = {"model.teacher": teacher.tile_size, "model.student": own.tile_size, "data.view.tile_size": view}
    if len(set(sizes.values())) > 1:
        raise StageError(f"tile sizes differ: {sizes}; teacher, student and data.view.tile_size have to agree")
    if teacher.patch_size != own.patch_size:
        raise StageError(f"model.student: patch size {own.patch_size}, expected the teacher's {teacher.patch_size}")
    layers = min(teacher.layers, own.layers)
    if recipe.distill.features and recipe.distill.last_k > layers:
        raise StageError(f"distill.last_k: got {recipe.distill.last_k}, expected at most the {layers} layers there are")


def set_drop_path(tower: InternVLVisionModel, asked: float | None) -> tuple[str, ...]:
    """Put DropPath into a tower that is trained.

    Args:
        tower: gets it in every layer, with growing rates.
        asked: rate of the last layer; None for that of the tower's configuration.

    Returns:
        what to announce, if the rate is the tower's own.

    Raises:
        StageError: a rate of its own that is none, or other dropout beside it.
    """
    rate = own_drop_path(tower.config) if asked is None else asked
    try:
        add_drop_path(tower, rate)
    except ValueError as error:
        raise StageError(f"model.{error}") from error
    return (f"model.drop_path: {rate:g}, of the tower's own configuration",) if asked is None and rate else ()


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def choose_kernels(recipe: Recipe, towers: Sequence[InternVLVisionModel], dtype: torch.dtype) -> tuple[str, str]:
    """Set the towers' attention kernels and their fused ones; returns what to announce."""
    widths = [tower.config.hidden_size // tower.config.num_attention_heads for tower in towers]
    backend = choose_backend(recipe.model.attention, compute_device(), dtype, max(widths))
    operations = choose_fused(recipe.model.kernels, compute_device())
    for tower in towers:
        tower.set_attn_implementation(backend.vision)
        use_fused(tower, operations)
    return backend.announcement, operations.announcement
