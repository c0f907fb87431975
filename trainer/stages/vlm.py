"""What the stages on whole models share: packs in, cross-entropy of the answers out, and pictures of what was asked.

Shape suffixes: M label tokens, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from data_shards.chat import IMAGE_TOKEN
from data_shards.collate import Batch
from data_shards.cost import CostModel
from data_shards.loader import TextSettings
from data_shards.schema import QUESTION_KINDS
from models.attention import PackLayout, choose_backend, pack_layout
from models.flops import forward_flops
from models.fused import choose_fused
from models.label_loss import head_chunks
from models.loading import Blank, Weights
from models.packed_vlm import PackedVLM
from models.presets import TEXT_PRESETS, VLM_PRESETS, image_tokens_per_tile
from models.transfer import sent
from models.vision import normalise_tiles
from trainer.dist import compute_device
from trainer.preprocessing import chat_template
from trainer.recipe import Recipe
from trainer.stages.base import Forward, LossOut, Picture, Preparation, Stage
from trainer.stages.grouped import index_of, means_by
from trainer.stages.picture import captioned_tiles
from trainer.stages.sources import StageError
from trainer.utilisation import (
    ATTENTION_PASSES,
    PackSize,
    Trained,
    TrainFlops,
    computed_pairs,
    trained_share,
    visible_pairs,
    vlm_training,
)

_TYPES = tuple(f"type/{kind}" for kind in QUESTION_KINDS)


class VlmStage(Stage):
    """Training of a whole model, or part of it, on the answers of packed questions.

    Attributes:
        passes: cost of vision tower, projector and language model in forward passes: 1 without gradients, 2 with those
            of the inputs only, 3 with those of the weights too.
    """

    passes: ClassVar[tuple[int, int, int]] = (3, 3, 3)

    modules: ClassVar[Mapping[str, str]] = {
        "vlm.model.vision_tower.": "vision",
        "vlm.model.multi_modal_projector.": "projector",
        "vlm.model.language_model.": "language",
        "vlm.lm_head.": "language",
    }

    def __init__(
        self,
        recipe: Recipe,
        blank: Blank[InternVLForConditionalGeneration],
        tokenizer: PreTrainedTokenizerFast,
        dtype: torch.dtype,
        frozen: Mapping[str, Weights],
    ) -> None:
        vlm = blank.model
        _check_fit(recipe, vlm, tokenizer)
        tower = vlm.model.vision_tower.config
        tokens_per_tile = image_tokens_per_tile(tower, vlm.config.downsample_ratio)
        text = TextSettings(
            tokenizer=tokenizer,
            template=chat_template(recipe),
            tokens_per_tile=tokens_per_tile,
            loss_weight=recipe.loss_weight,
            coordinate_weight=recipe.coordinate_weight,
        )
        head_dim = vlm.model.language_model.config.head_dim
        self.attention = choose_backend(recipe.model.attention, compute_device(), dtype, head_dim)
        self.kernels = choose_fused(recipe.model.kernels, compute_device())
        model = PackedVLM(vlm, self.attention, longest=recipe.data.max_tokens, operations=self.kernels)
        super().__init__(recipe, model, text, blanks=(blank,), dtype=dtype, frozen=frozen)
        self.tokenizer = tokenizer
        self._forward_flops = forward_flops(vlm.config, projector=recipe.model.projector)
        parts = (vlm.model.vision_tower, vlm.model.multi_modal_projector, vlm.model.language_model)
        self._shares = tuple(trained_share(part) for part in parts)

    def notes(self) -> tuple[str, ...]:
        return (self.attention.announcement, self.kernels.announcement)

    def layers(self) -> Mapping[str, torch.nn.ModuleList]:
        model = self.vlm.model
        return {"vision": model.vision_tower.encoder.layer, "language": model.language_model.layers}

    @property
    def vlm(self) -> InternVLForConditionalGeneration:
        """The stock model inside."""
        assert isinstance(self.model, PackedVLM)
        return self.model.vlm

    def cost(self) -> CostModel:
        """See `Stage`; with the stock projector whatever the recipe's: a run's order of packs depends on it."""
        flops = forward_flops(self.vlm.config)
        vision, projector, language = self.passes
        return CostModel(
            token=language * flops.token,
            tile=vision * flops.tile + projector * flops.image_token * flops.tokens_per_tile,
            pair=ATTENTION_PASSES * flops.pair,
        )

    def weight(self, batch: Batch) -> float:
        return float(batch.label_weights.double().sum())

    def loss(self, forward: Forward, batch: Batch, device: torch.device) -> LossOut:
        layout = pack_layout(batch.groups, batch.segment_ids, self.attention).to(device)
        dataset_M = sent(_of_labels(batch, self.datasets, batch.meta.datasets), device)
        type_M = sent(_of_labels(batch, QUESTION_KINDS, batch.meta.kinds), device)
        image_positions = (batch.input_ids == self.vlm.config.image_token_id).nonzero()[:, 0]
        batch = batch.to(device, non_blocking=True)
        each_M, predicted_M = forward(
            batch.input_ids,
            batch.position_ids,
            normalise_tiles(batch.tiles, self.vlm.dtype),
            layout,
            batch.label_positions,
            batch.dummy_tile,
            batch.label_targets,
            self._chunks(),
            sent(image_positions, device),
        )
        weights_M = batch.label_weights.to(each_M.dtype)
        losses_M = each_M * weights_M
        hits = (predicted_M == batch.label_targets).sum()
        metrics: dict[str, tuple[torch.Tensor, torch.Tensor | float]] = {
            **means_by(self.datasets, dataset_M, losses_M, weights_M),
            **means_by(_TYPES, type_M, losses_M, weights_M),
            "accuracy/tokens": (hits.float(), float(len(predicted_M))),
        }
        return LossOut(total=losses_M.sum(), metrics=metrics, predicted=predicted_M, flops=self._flops(batch, layout))

    def flops(self, batch: Batch) -> TrainFlops:
        return self._flops(batch, pack_layout(batch.groups, batch.segment_ids, self.attention))

    def metric_names(self) -> tuple[str, ...]:
        return (*self.datasets, *_TYPES, "accuracy/tokens")

    def exported(self) -> InternVLForConditionalGeneration:
        assert isinstance(self.model, PackedVLM)
        return self.model.release()

    def prepare(self, preparation: Preparation) -> None:
        """Nothing: the model is all there is."""

    def save_extras(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(directory)

    def picture(self, batch: Batch, out: LossOut) -> Picture | None:
        """The first frame of a pack and its first question, with the likeliest token at each label, given the reference
        before it: what the model itself would write is in the pictures of the validation."""
        if batch.dummy_tile or out.predicted is None or not len(batch.label_targets):
            return None
        question = int(batch.label_questions[0])
        labels = batch.label_questions == question
        key, _ = batch.meta.question_refs[question]
        lines = {
            "question": self._question_text(batch, int(batch.label_positions[0]) + 1),
            "likeliest tokens after the reference's": self._decode(out.predicted.cpu()[labels]),
            "reference": self._decode(batch.label_targets[labels]),
        }
        assert self.text is not None
        start, end = batch.groups[0]
        image_tokens = int((batch.input_ids[start:end] == self.vlm.config.image_token_id).sum())
        if not image_tokens:
            return None
        tiles = batch.tiles[: image_tokens // self.text.tokens_per_tile].numpy()
        return Picture(
            name=f"{batch.meta.datasets[question]}/question",
            image=captioned_tiles(tiles, [f"{name}: {text}" for name, text in lines.items()]),
            caption="\n\n".join([f"**frame**: {key}", *(f"**{name}**: {text}" for name, text in lines.items())]),
        )

    def _chunks(self) -> int:
        return head_chunks(self.recipe.data.max_tokens, self.vlm.lm_head.out_features)

    def _flops(self, batch: Batch, layout: PackLayout) -> TrainFlops:
        vision, projector, language = self._shares
        size = PackSize(
            tiles=batch.meta.num_tiles,
            run_tiles=len(batch.tiles),
            tokens=len(batch.input_ids),
            labels=len(batch.label_targets),
            pairs=visible_pairs(layout),
            run_pairs=computed_pairs(layout),
        )
        return vlm_training(
            self._forward_flops,
            size,
            vision=Trained(share=vision, again=self.share_run_again("vision")),
            projector=Trained(share=projector),
            language=Trained(share=language, again=self.share_run_again("language")),
            head_again=self._chunks() > 1,
        )

    def _question_text(self, batch: Batch, first_label: int) -> str:
        segments = batch.segment_ids[:first_label]
        same = segments == segments[-1]
        changes = (~same).nonzero()
        start = int(changes[-1]) + 1 if len(changes) else 0
        return self._decode(batch.input_ids[start:first_label]).removesuffix("assistant").strip()

    def _decode(self, ids: torch.Tensor) -> str:
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()


def _of_labels(batch: Batch, names: Sequence[str], of_questions: Sequence[str]) -> torch.Tensor:
    """Index into `names` of each label token, int64 [M], from the names of the questions."""
    return index_of(names, of_questions)[batch.label_questions.long()]


def _check_fit(recipe: Recipe, vlm: InternVLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    side = list(vlm.model.vision_tower.config.image_size)
    vocabulary = vlm.lm_head.out_features
    if side != [recipe.data.view.tile_size] * 2:
        raise StageError(
            f"data.view.tile_size: got {recipe.data.view.tile_size}, expected {side[0]}, the tile of the vision tower"
        )
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    fresh = recipe.model.language in TEXT_PRESETS or recipe.model.vlm in VLM_PRESETS  # was trained with no tokenizer
    fits = len(tokenizer) == vocabulary or (fresh and len(tokenizer) < vocabulary)
    if not fits or image_token != vlm.config.image_token_id:
        raise StageError(
            f"model.tokenizer: got {len(tokenizer)} tokens with {IMAGE_TOKEN} = {image_token}, expected {vocabulary}, "
            f"as many as the language model's embedding has rows, with {IMAGE_TOKEN} = {vlm.config.image_token_id}; "
            "give the tokenizer the language model was trained with"
        )
