"""A frozen projector and language model, and what a teacher and a student tower see, in; how far their answers are
apart out.

Shape suffixes: T tiles, P patches of a tile, E width of the teacher tower, N tokens of a pack, M label tokens, D width
of the language model, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import log_softmax
from torch.utils.checkpoint import checkpoint
from transformers import InternVLForConditionalGeneration

from models.attention import PACK_ATTENTION, PackLayout, register_pack_attention
from models.loading import Blank, RoutedWeights
from models.packed_vlm import with_tiles


class AnswerLosses(NamedTuple):
    """Attributes: divergences: float32 [M], with graph; agreed: bool [M], whether the likeliest token is the same."""

    divergences: torch.Tensor
    agreed: torch.Tensor


class AnswerHead(nn.Module):
    """Projector and language model of a whole model, which two towers of the same width speak through.

    No parameter of it is trained; gradients pass through it to the student's features. It stays in evaluation mode.
    """

    def __init__(self, vlm: InternVLForConditionalGeneration) -> None:
        """Take parts of a model, whose tower is not needed."""
        super().__init__()
        register_pack_attention()
        self.projector = vlm.model.multi_modal_projector
        self.language_model = vlm.model.language_model
        self.lm_head = vlm.lm_head
        self.language_model.set_attn_implementation(PACK_ATTENTION)
        self._image_token = vlm.config.image_token_id
        self._downsample = vlm.config.downsample_ratio
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "AnswerHead":
        """Stays in evaluation mode, whatever it is a part of."""
        return super().train(False)

    def forward(
        self,
        student_TPE: torch.Tensor,
        teacher_TPE: torch.Tensor,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        layout: PackLayout,
        label_positions: torch.Tensor,
        temperature: float,
        dummy_tile: bool = False,
        head_chunks: int = 1,
        image_positions: torch.Tensor | None = None,
    ) -> AnswerLosses:
        """KL(teacher || student) of the next token at each label position, at a temperature, scaled by its square.

        Args:
            student_TPE, teacher_TPE: patch features of the same tiles, without CLS, in the teacher tower's space.
            input_ids, position_ids: int64 [N].
            layout: who sees whom.
            label_positions: int64 [M], the tokens whose successors are predicted.
            dummy_tile: the pack has no image; its one tile counts zero times.
            head_chunks: see `models.label_loss`.
            image_positions: as for `models.packed_vlm.PackedVLM`.

        Raises:
            ValueError: the tiles' tokens and the pack's image tokens differ in number.
        """
        pack = (input_ids, position_ids, layout, label_positions, dummy_tile, image_positions)
        with torch.no_grad():
            teacher_MD = self._hidden(teacher_TPE, *pack)
        student_MD = self._hidden(student_TPE, *pack)
        if head_chunks == 1:
            return _divergences(self.lm_head, student_MD, teacher_MD, temperature)
        pairs = zip(student_MD.tensor_split(head_chunks), teacher_MD.tensor_split(head_chunks), strict=True)
        parts = [
            checkpoint(_divergences, self.lm_head, student, teacher, temperature, use_reentrant=False)
            for student, teacher in pairs
        ]
        return AnswerLosses(torch.cat([part.divergences for part in parts]), torch.cat([part.agreed for part in parts]))

    def _hidden(
        self,
        features_TPE: torch.Tensor,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        layout: PackLayout,
        label_positions: torch.Tensor,
        dummy_tile: bool,
        image_positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """Hidden states at the label positions, [M, D]."""
        embeds_1ND = self.language_model.get_input_embeddings()(input_ids[None])
        projected = self.projector(shuffle_patches(features_TPE, self._downsample)).to(embeds_1ND.dtype)
        if dummy_tile:
            embeds_1ND = embeds_1ND + projected.sum() * 0.0
        else:
            places = (input_ids == self._image_token).nonzero()[:, 0] if image_positions is None else image_positions
            embeds_1ND = with_tiles(embeds_1ND, projected, places)
        outputs = self.language_model(
            inputs_embeds=embeds_1ND, position_ids=position_ids[None], use_cache=False, pack_layout=layout
        )
        return outputs.last_hidden_state[0, label_positions]


def answer_head(vlm: Blank[InternVLForConditionalGeneration]) -> Blank[AnswerHead]:
    """Projector and language model of a whole model that is not loaded yet; its tower never will be."""
    routes = (
        ("projector.", vlm.weights, "model.multi_modal_projector."),
        ("language_model.", vlm.weights, "model.language_model."),
        ("lm_head.", vlm.weights, "lm_head."),
    )
    return Blank(AnswerHead(vlm.model), RoutedWeights(routes))


def shuffle_patches(features_TPE: torch.Tensor, downsample: float) -> torch.Tensor:
    """Neighbouring patches side by side, as InternVL's pixel shuffle orders them: [T, P s^2, E / s^2]."""
    tiles, patches, width = features_TPE.shape
    side, factor = math.isqrt(patches), round(1 / downsample)
    blocks = features_TPE.reshape(tiles, side // factor, factor, side // factor, factor, width)
    return blocks.permute(0, 1, 3, 2, 4, 5).reshape(tiles, (side // factor) ** 2, factor**2 * width)


def _divergences(
    head: Callable[[torch.Tensor], torch.Tensor],
    student_MD: torch.Tensor,
    teacher_MD: torch.Tensor,
    temperature: float,
) -> AnswerLosses:
    with torch.no_grad():
        teacher_MV = log_softmax(head(teacher_MD).float() / temperature, dim=-1)
    student_MV = log_softmax(head(student_MD).float() / temperature, dim=-1)
    each_M = (teacher_MV.exp() * (teacher_MV - student_MV)).sum(dim=-1) * temperature**2
    return AnswerLosses(each_M, student_MV.detach().argmax(dim=-1) == teacher_MV.argmax(dim=-1))
