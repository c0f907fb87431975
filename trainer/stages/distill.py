"""Distillation: tiles in, the student's distance to the frozen teacher out, on hidden states, on codebook logits and on
the answers of a language model. The teacher is asked in each step, or what it said is read from its cached targets.

Shape suffixes: T tiles, P patches of a tile, N tokens of a tile (CLS and patches), E teacher width, V codebook.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from transformers import InternVLVisionModel

from data_shards.collate import Batch, Targets
from data_shards.cost import CostModel
from models.distill_heads import Codebook, DistillStudent
from models.flops import tile_tokens, tower_flops, vision_flops
from models.loading import Blank, Files, HeldWeights
from models.transfer import sent
from models.vision import normalise_tiles
from trainer.codebook import StoredCodebook, given_codebook
from trainer.engine_partition import Partition
from trainer.hashes import files_sha256
from trainer.losses import negative_cosine, patch_kl, top_patch_kl
from trainer.recipe import Recipe
from trainer.stages.answers import AnswerTerm
from trainer.stages.base import Forward, LossOut, Metrics, Preparation, Stage
from trainer.stages.frozen import FrozenPart
from trainer.stages.grouped import index_of, means_by
from trainer.stages.towers import (
    TowerShape,
    check_fit,
    choose_kernels,
    frozen_tower,
    set_drop_path,
    student_tower,
    teacher_tower,
)
from trainer.stages.vocabulary import own_codebook
from trainer.utilisation import Trained, TrainFlops, tower_training, trained_share


class DistillStage(Stage):
    """A student tower learns a frozen teacher tower, which is outside the engine, whole or partitioned on its own.

    Attributes:
        teacher: the tower, in no optimiser; None where its targets are cached.
        answers: the term on answers, where it has a weight.
        codebook: known once the stage is prepared, where patch logits have a weight.
    """

    modules: ClassVar[Mapping[str, str]] = {"tower.": "vision", "bridges.": "bridge"}

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        """Make both towers.

        Args:
            recipe: of this stage.
            dtype: both compute in it.

        Raises:
            StageError, CodebookError: a model or file that is missing, or towers and tiles that do not fit together.
        """
        generator = torch.Generator().manual_seed(recipe.seed)
        teacher = teacher_tower(recipe) if recipe.model.teacher or recipe.model.teacher_vlm else None
        self._given = given_codebook(recipe) if recipe.distill.codebook else None
        cached = recipe.data.datasets[0].targets is not None
        self._shape = _teacher_shape(recipe, self._given if cached else None, teacher)
        self._online = None if cached or teacher is None else frozen_tower(teacher)
        self.teacher = teacher.model if teacher is not None and self._online else None
        self.answers = AnswerTerm(recipe, self._shape, dtype) if recipe.distill.answer_logits else None
        tower = student_tower(recipe, teacher, generator)
        check_fit(recipe, self._shape, tower.model.config)
        self._drop_path = set_drop_path(tower.model, recipe.model.drop_path)
        towers = [tower.model, *([self.teacher] if self.teacher else [])]
        self._announcements = choose_kernels(recipe, towers, dtype)
        self._last_k = recipe.distill.last_k if recipe.distill.features else 1
        student = DistillStudent(tower.model, self._shape.width, self._last_k, generator)
        super().__init__(
            recipe,
            student,
            text=self.answers.text if self.answers else None,
            blanks=(tower, Blank(student.bridges, HeldWeights(student.bridges))),
            dtype=dtype,
            frozen=_frozen(teacher, self.answers, self._given),
        )
        self.codebook: Codebook | None = None
        self._fitted: StoredCodebook | None = None
        self._student_share = trained_share(tower.model)

    def notes(self) -> tuple[str, ...]:
        cached = () if self._online else ("distill: the teacher is not loaded; its targets are read with the frames",)
        return (*self._announcements, *self._drop_path, *(self.answers.notes() if self.answers else ()), *cached)

    def layers(self) -> Mapping[str, torch.nn.ModuleList]:
        assert isinstance(self.model, DistillStudent)
        return {"vision": self.model.tower.encoder.layer}

    def load(self, partition: Partition | None = None) -> None:
        """See `Stage`; the frozen parts are partitioned as `distill.teacher_placement` says.

        Raises:
            StageError: a partitioned teacher is asked for where nothing is partitioned.
        """
        super().load(partition)
        for part in self.frozen_parts():
            part.load(self.dtype, self.recipe.distill.teacher_placement, partition)

    def prepare(self, preparation: Preparation) -> None:
        """Move whole frozen parts to the device; read the codebook, which is fitted first where there is none.

        Raises:
            StageError: fewer patches than codebook entries.
            CodebookError: a codebook of another teacher.
        """
        for part in self.frozen_parts():
            part.to(preparation.device)
        sha256 = self._teacher_sha256(preparation)
        if self._given is not None and sha256 is not None:
            self._given.check({"teacher_sha256": sha256})
        if not self.recipe.distill.patch_logits:
            return
        stored = self._given
        if stored is None:
            assert self._online is not None, "cached targets come with a codebook"
            assert sha256 is not None, "a teacher has files"
            stored = own_codebook(self.recipe, self._online, preparation, sha256, self._shape.patch_size)
            self._fitted = stored
        self.codebook = Codebook(stored.prototypes).to(preparation.device)

    def _teacher_sha256(self, preparation: Preparation) -> str | None:
        """Of the teacher's files; None where it is not loaded."""
        field = "model.teacher"
        if field in preparation.inputs:
            return str(preparation.inputs[field]["sha256"])
        teacher = self.frozen.get(field)
        return preparation.ranks.on_main(lambda: files_sha256(teacher.files)) if teacher else None

    def prepared(self) -> dict[str, Files]:
        return {"distill.codebook": self._fitted} if self._fitted else {}

    def cost(self) -> CostModel:
        if self.answers is None:
            return super().cost()
        teacher = vision_flops(self.teacher.config) if self.teacher else 0.0
        return self.answers.cost(3 * vision_flops(self.exported().config) + teacher)

    def weight(self, batch: Batch) -> float:
        return float(batch.meta.num_tiles)

    def second_weight(self, batch: Batch) -> float:
        return self.answers.weight(batch) if self.answers else 0.0

    def loss(self, forward: Forward, batch: Batch, device: torch.device) -> LossOut:
        terms = self.recipe.distill
        pixels = normalise_tiles(sent(batch.tiles, device), self.dtype)
        targets = batch.targets.to(device, non_blocking=True) if batch.targets else None
        teacher_TNE = self._states(pixels, targets)
        student_TNE = forward(pixels)
        each_T = pixels.new_zeros(len(pixels), dtype=torch.float32)
        metrics: dict[str, tuple[torch.Tensor, torch.Tensor | float]] = {}
        if terms.features:
            pairs = zip(student_TNE, teacher_TNE, strict=True)
            features_T = torch.stack([negative_cosine(own, target) for own, target in pairs]).mean(dim=0)
            each_T = each_T + terms.features * features_T
            metrics["features"] = (features_T.sum(), self.weight(batch))
        if terms.patch_logits:
            patch_logits_T = self._patch_logits(student_TNE, teacher_TNE, targets)
            each_T = each_T + terms.patch_logits * patch_logits_T
            metrics["patch_logits"] = (patch_logits_T.sum(), self.weight(batch))
        metrics |= self._by_dataset(each_T, batch)
        if self.answers is None:
            return LossOut(total=each_T.sum(), metrics=metrics, flops=self.flops(batch))
        answers, own = self.answers.loss(student_TNE[-1], teacher_TNE[-1], batch)
        return LossOut(
            total=each_T.sum(),
            second=terms.answer_logits * answers,
            metrics={**metrics, **own},
            flops=self.flops(batch),
        )

    def metric_names(self) -> tuple[str, ...]:
        return (*self.datasets, "features", "patch_logits", *(self.answers.metric_names if self.answers else ()))

    def exported(self) -> InternVLVisionModel:
        assert isinstance(self.model, DistillStudent)
        return self.model.tower

    def save_extras(self, directory: Path) -> None:
        """Nothing: a tower is complete by itself."""

    def _by_dataset(self, each_T: torch.Tensor, batch: Batch) -> Metrics:
        """The terms over tiles, of the tiles of each dataset; a dummy tile is of none."""
        if batch.dummy_tile:
            return {}
        owners = [name for name, tiles in batch.meta.frame_tiles for _ in range(tiles)]
        index_T = sent(index_of(self.datasets, owners), each_T.device)
        return means_by(self.datasets, index_T, each_T, torch.ones_like(each_T))

    def flops(self, batch: Batch) -> TrainFlops:
        """Of student, teacher where it is asked, bridges, codebook logits, whose prototypes are frozen, and answers."""
        settings, tower = self.recipe.distill, self.exported()
        tile = tower_training(
            tower_flops(tower.config), Trained(share=self._student_share, again=self.share_run_again("vision"))
        )
        if self.teacher is not None:
            tile += tower_training(tower_flops(self.teacher.config), Trained(share=0.0))
        tokens = tile_tokens(tower.config)
        heads = 3 * self._last_k * 2.0 * tokens * tower.config.hidden_size * self._shape.width
        if settings.patch_logits:
            passes = 3 if self.teacher is not None else 2
            heads += passes * 2.0 * (tokens - 1) * self._shape.width * settings.codebook_size
        tile += TrainFlops(useful=heads, hardware=heads)
        whole = TrainFlops(useful=batch.meta.num_tiles * tile.useful, hardware=len(batch.tiles) * tile.hardware)
        return whole if self.answers is None else whole + self.answers.flops(batch)

    def frozen_parts(self) -> tuple[FrozenPart, ...]:
        """The teacher's tower and what answers are asked of, as far as they are loaded."""
        return tuple(part for part in (self._online, self.answers.head if self.answers else None) if part)

    def _states(self, pixels: torch.Tensor, targets: Targets | None) -> Sequence[torch.Tensor]:
        """The teacher's last hidden states [T, N, E]: its own, or from the cache, where they may not be needed."""
        if self._online is not None:
            return self._online(pixels, self._last_k)
        assert targets is not None, "the loader reads cached targets"
        if targets.features is None:
            return ()
        return targets.features[:, -self._last_k :].to(self.dtype).unbind(1)

    def _patch_logits(
        self, student_TNE: Sequence[torch.Tensor], teacher_TNE: Sequence[torch.Tensor], targets: Targets | None
    ) -> torch.Tensor:
        own = self._logits(student_TNE[-1])
        if targets is None:
            return patch_kl(own, self._logits(teacher_TNE[-1]), self.recipe.distill.temperature)
        indices = None if targets.indices is None else targets.indices.long()
        return top_patch_kl(own, targets.values, indices, self.recipe.distill.temperature)

    def _logits(self, states_TNE: torch.Tensor) -> torch.Tensor:
        assert self.codebook is not None, "prepare was not called"
        return self.codebook(states_TNE[:, 1:].float(), self.recipe.distill.codebook_temperature)


def _teacher_shape(
    recipe: Recipe, codebook: StoredCodebook | None, teacher: Blank[InternVLVisionModel] | None
) -> TowerShape:
    """Of the teacher that is loaded, or of the one whose cached targets come with a codebook."""
    if codebook is None:
        assert teacher is not None, "load_recipe checks what a stage needs"
        return TowerShape.of(teacher.model.config)
    return TowerShape(
        width=codebook.width,
        layers=recipe.distill.last_k,
        tile_size=codebook.record.tile_size,
        patch_size=codebook.record.patch_size,
    )


def _frozen(
    teacher: Blank[InternVLVisionModel] | None, answers: AnswerTerm | None, codebook: StoredCodebook | None
) -> dict[str, Files]:
    files: dict[str, Files | None] = {
        "model.teacher": teacher.weights if teacher else None,
        "model.teacher_vlm": answers.weights if answers else None,
        "distill.codebook": codebook,
    }
    return {field: part for field, part in files.items() if part is not None}
