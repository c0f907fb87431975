"""A recipe of a stage on questions in; the same stage as a user of transformers would run it, out.

The model is stock, with attention of transformers' own (`sdpa`, or `flash_attention_2` where that is installed) and its
own gradient checkpointing, of all layers or none. A batch holds the conversations of a pack with one question a visit,
padded to the longest; the loss is the model's own, of the logits of all tokens. What stays ours favours it: tiles cross
as uint8 and are normalised on the device, and there is no DropPath.

Shape suffixes: B conversations, L tokens of the longest.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import transformers
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import InternVLForConditionalGeneration

from data_shards.collate import Batch
from data_shards.pack import IGNORED
from models.blanks import drawn_vlm
from models.packed_vlm import PackedVLM
from models.transfer import sent
from models.vision import normalise_tiles
from trainer.footprint import footprint
from trainer.memory import Memory, Zero, estimate
from trainer.recipe import Recipe
from trainer.stages.align import AlignStage
from trainer.stages.base import Forward, LossOut
from trainer.stages.finetune import FinetuneStage
from trainer.stages.vlm import VlmStage

_PRECISE = 4
"""Bytes of float32, to which the loss widens all logits."""


class StockVLM(nn.Module):
    """A stock model under the name by which a stage knows its parameters."""

    def __init__(self, vlm: InternVLForConditionalGeneration) -> None:
        super().__init__()
        self.vlm = vlm

    def forward(self, **inputs: Any) -> Any:
        """The stock model's own."""
        return self.vlm(**inputs)


class StockStage(VlmStage):
    """What a stage on a stock model does in another way; to be mixed into one."""

    def unpack(self) -> None:
        """Put a stock model, on the meta device, in the place of the packed one."""
        attention: Literal["flash", "sdpa"] = "flash" if self.attention.name == "flash" else "sdpa"
        model = replace(self.recipe.model, attention=attention, kernels="plain")
        self.recipe = replace(self.recipe, model=model)
        packed = super().exported()
        blank = drawn_vlm(copy.deepcopy(packed.config), torch.Generator(), projector=model.projector)
        trained = {name: parameter.requires_grad for name, parameter in packed.named_parameters()}
        for name, parameter in blank.model.named_parameters():
            parameter.requires_grad_(trained[name])
        blank.model.set_attn_implementation(self.attention.vision)
        if self.checkpointed:
            blank.model.activation_checkpointing_enable()
        self.model, self.blanks = StockVLM(blank.model), (blank,)

    @property
    def checkpointed(self) -> bool:
        """Whether all layers are run again."""
        return any(self.num_checkpointed(name) for name in self.layers())

    @property
    def vlm(self) -> InternVLForConditionalGeneration:
        assert isinstance(self.model, PackedVLM | StockVLM)
        return self.model.vlm

    def exported(self) -> InternVLForConditionalGeneration:
        return self.vlm

    def notes(self) -> tuple[str, ...]:
        again = "all layers are checkpointed" if self.checkpointed else "no layer is checkpointed"
        return (
            f"model: stock transformers {transformers.__version__}, attention {self.attention.vision}, padded batches, "
            f"logits of every token, {again}",
        )

    def train_mode(self) -> None:
        """All of it, frozen parts too: transformers checkpoints no layer in evaluation mode. No part drops anything."""
        self.model.train()

    def weight(self, batch: Batch) -> float:
        return float(len(batch.label_targets))

    def loss(self, forward: Forward, batch: Batch, device: torch.device) -> LossOut:
        inputs = {name: sent(tensor, device) for name, tensor in padded(batch).items()}
        tiles = None if batch.dummy_tile else sent(batch.tiles, device)
        pixels = None if tiles is None else normalise_tiles(tiles, self.vlm.dtype)
        mean = forward(**inputs, pixel_values=pixels, use_cache=False).loss
        return LossOut(total=mean * len(batch.label_targets))


class StockFinetune(StockStage, FinetuneStage):
    """Stage 2."""

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        FinetuneStage.__init__(self, recipe, dtype)
        self.unpack()


class StockAlign(StockStage, AlignStage):
    """Stage 1."""

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        AlignStage.__init__(self, recipe, dtype)
        self.unpack()


def stock_stage(recipe: Recipe, dtype: torch.dtype) -> StockStage:
    """The recipe's stage, without weights."""
    return StockAlign(recipe, dtype) if recipe.stage == "align" else StockFinetune(recipe, dtype)


def padded(batch: Batch) -> dict[str, torch.Tensor]:
    """Conversations of a pack, each with one question, as int64 [B, L] under the names of the model's arguments."""
    labels_N = torch.full_like(batch.input_ids, IGNORED)
    labels_N[batch.label_positions + 1] = batch.label_targets
    assert all(int(batch.segment_ids[start:end].max()) <= 1 for start, end in batch.groups), "one question a visit"
    ids = [batch.input_ids[start:end] for start, end in batch.groups]
    labels = [labels_N[start:end] for start, end in batch.groups]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def stock_memory(stage: StockStage, zero: Zero, checkpointed: Mapping[str, int]) -> Memory:
    """A rough estimate: that of a pack of the recipe's limits, with the logits of all its tokens.

    Kept are the logits and their log-softmax; at the worst moment there are two gradients in float32 beside them.
    """
    data, vocabulary = stage.recipe.data, stage.vlm.lm_head.out_features
    held = footprint(stage, max_tokens=data.max_tokens, max_tiles=data.max_tiles, divided=zero.stage == 3)
    logits = data.max_tokens * vocabulary
    loss = (float(logits * (stage.dtype.itemsize + _PRECISE)), float(logits * 2 * _PRECISE))
    return estimate(replace(held, loss=loss), zero, checkpointed)
