"""The distillation term on answers: a frozen projector and language model asked what teacher and student see.

Shape suffixes: T tiles, N tokens of a tile (CLS and patches), E teacher width.
"""

from pathlib import Path

import torch

from data_shards.collate import Batch
from data_shards.cost import CostModel
from data_shards.loader import TextSettings
from models.answer_head import answer_head
from models.attention import choose_backend, pack_layout
from models.blanks import stored_vlm
from models.flops import forward_flops
from models.fused import choose_fused, use_fused
from models.label_loss import head_chunks
from models.loading import Weights
from models.packed_vlm import settle_rotary
from models.presets import image_tokens_per_tile
from models.transfer import sent
from trainer.dist import compute_device
from trainer.preprocessing import chat_template
from trainer.recipe import Recipe
from trainer.stages.base import Metrics
from trainer.stages.frozen import FrozenPart
from trainer.stages.sources import StageError, model_directory, points_note, tokenizer_from
from trainer.stages.towers import TowerShape
from trainer.utilisation import ATTENTION_PASSES, TrainFlops, computed_pairs, visible_pairs

_PASSES = 3
"""Forward passes the language model costs: the teacher's, the student's, and the gradients of the student's inputs."""
_PAIR_PASSES = 1 + ATTENTION_PASSES
"""The same of its attention."""


class AnswerTerm:
    """KL(teacher || student) on the answer tokens of packed questions.

    The student's patch features go through its trained bridge to the teacher's width; from there both go through the
    same frozen projector into the same frozen language model.

    Attributes:
        head: projector and language model.
        config: of the whole model they are of.
        text: how questions become tokens.
    """

    metric_names = ("answer_logits", "accuracy/teacher_tokens")

    def __init__(self, recipe: Recipe, teacher: TowerShape, dtype: torch.dtype) -> None:
        """Make the parts.

        Args:
            recipe: of a distill stage with `distill.answer_logits`.
            teacher: its tower.
            dtype: all parts compute in it.

        Raises:
            StageError: no whole model or tokenizer there, or one for another tower.
        """
        assert recipe.model.teacher_vlm, "load_recipe checks what a stage needs"
        directory = model_directory("model.teacher_vlm", recipe.model.teacher_vlm)
        vlm = stored_vlm(directory)
        self.config = vlm.model.config
        tower = vlm.model.model.vision_tower.config
        _check_fit(directory, teacher, TowerShape.of(tower))
        own = (Path(directory) / "tokenizer.json").is_file()
        tokenizer = tokenizer_from(
            "model.tokenizer", str(directory) if own else recipe.model.tokenizer or str(directory)
        )
        self.text = TextSettings(
            tokenizer=tokenizer,
            template=chat_template(recipe),
            tokens_per_tile=image_tokens_per_tile(tower, self.config.downsample_ratio),
            loss_weight=recipe.loss_weight,
            coordinate_weight=recipe.coordinate_weight,
        )
        self._points = points_note("model.teacher_vlm", str(directory), recipe.data.coordinates)
        self._attention = choose_backend(
            recipe.model.attention, compute_device(), dtype, vlm.model.model.language_model.config.head_dim
        )
        self._chunks = head_chunks(2 * recipe.data.max_tokens, vlm.model.lm_head.out_features)  # logits of both
        settle_rotary(vlm.model.model.language_model, recipe.data.max_tokens)
        self._temperature = recipe.distill.temperature
        blank = answer_head(vlm)
        use_fused(blank.model, choose_fused(recipe.model.kernels, compute_device()))
        self.weights: Weights = blank.weights
        self.head = FrozenPart(blank)

    def notes(self) -> tuple[str, ...]:
        """What was chosen for this machine."""
        return (self._attention.announcement, *self._points)

    def cost(self, tile: float) -> CostModel:
        """What packs cost, where a tile costs `tile` FLOPs of both towers."""
        flops = forward_flops(self.config)
        return CostModel(
            token=_PASSES * flops.token,
            tile=tile + _PASSES * flops.image_token * flops.tokens_per_tile,
            pair=_PAIR_PASSES * flops.pair,
        )

    def weight(self, batch: Batch) -> float:
        """Of the label tokens of a micro batch."""
        return float(batch.label_weights.double().sum())

    def loss(self, student_TNE: torch.Tensor, teacher_TNE: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, Metrics]:
        """Weighted sum of the divergences of a micro batch, with metrics.

        Args:
            student_TNE, teacher_TNE: last states of both, the student's behind its bridge.
            batch: from the loader, on the CPU.
        """
        device = student_TNE.device
        layout = pack_layout(batch.groups, batch.segment_ids, self._attention).to(device)
        image_positions = (batch.input_ids == self.config.image_token_id).nonzero()[:, 0]
        divergences_M, agreed_M = self.head(
            student_TNE[:, 1:],
            teacher_TNE[:, 1:],
            sent(batch.input_ids, device),
            sent(batch.position_ids, device),
            layout,
            sent(batch.label_positions, device),
            self._temperature,
            batch.dummy_tile,
            self._chunks,
            sent(image_positions, device),
        )
        total = (divergences_M * sent(batch.label_weights, device)).sum()
        return total, {
            "answer_logits": (total, self.weight(batch)),
            "accuracy/teacher_tokens": (agreed_M.sum().float(), float(len(agreed_M))),
        }

    def flops(self, batch: Batch) -> TrainFlops:
        """Of the head on what both towers see; it is frozen, the student's inputs get gradients."""
        layout = pack_layout(batch.groups, batch.segment_ids, self._attention)
        each = forward_flops(self.config)
        per_tile = _PASSES * each.image_token * each.tokens_per_tile
        matrices = _PASSES * (len(batch.input_ids) * each.token + len(batch.label_targets) * each.label)
        again = 2 * len(batch.label_targets) * each.label if self._chunks > 1 else 0.0
        return TrainFlops(
            useful=batch.meta.num_tiles * per_tile + matrices + _PAIR_PASSES * visible_pairs(layout) * each.pair,
            hardware=len(batch.tiles) * per_tile + matrices + 4.5 * computed_pairs(layout) * each.pair + again,
        )


def _check_fit(directory: Path, teacher: TowerShape, own: TowerShape) -> None:
    names = ("width", "tile_size", "patch_size")
    wrong = [name for name in names if getattr(own, name) != getattr(teacher, name)]
    if wrong:
        listed = "; ".join(f"{name} {getattr(own, name)}, expected {getattr(teacher, name)}" for name in wrong)
        raise StageError(
            f"model.teacher_vlm: {directory} is made for a tower with {listed} of model.teacher; leave model.teacher "
            "out, or give the whole model of that tower"
        )
