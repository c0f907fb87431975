"""A stock whole model and a pack in; logits at its label positions, or their losses, out.

Shape suffixes: N tokens of a pack, T tiles, P image tokens of a tile, S tile side in pixels, M label tokens,
V vocabulary, D width.
"""

import torch
from torch import nn
from transformers import InternVLForConditionalGeneration, LlamaModel

from models.attention import PACK_ATTENTION, Backend, PackLayout, register_pack_attention
from models.checkpointing import release_layers
from models.fused import PLAIN, Operations, release_fused, use_fused
from models.label_loss import LabelLosses, label_losses


def pack_embeddings(
    vlm: InternVLForConditionalGeneration,
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor,
    *,
    dummy_tile: bool,
    image_positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Input embeddings [1, N, D] of a pack, with the projected tiles at its `<IMG_CONTEXT>` tokens.

    Arguments and errors as for `PackedVLM.forward`. Stock code compares counts on the device, and the host waits.
    """
    model = vlm.model
    embeds_1ND = vlm.get_input_embeddings()(input_ids[None])
    features = model.get_image_features(pixel_values=pixel_values, return_dict=True).pooler_output
    features = features.to(embeds_1ND.dtype)
    if dummy_tile:
        return embeds_1ND + features.sum() * 0.0
    if image_positions is None:
        image_positions = (input_ids == vlm.config.image_token_id).nonzero()[:, 0]
    return with_tiles(embeds_1ND, features, image_positions)


def with_tiles(embeds_1ND: torch.Tensor, features_TPD: torch.Tensor, image_positions: torch.Tensor) -> torch.Tensor:
    """Embeddings with the projected tokens of the tiles at these places, of which there have to be as many.

    Stock code scatters by a mask, for whose backward pass the host waits.

    Raises:
        ValueError: there are not.
    """
    features = features_TPD.flatten(0, 1)
    if len(image_positions) != len(features):
        raise ValueError(
            f"a pack's image tokens and its tiles do not match: got {len(image_positions)} image tokens, expected "
            f"{features_TPD.shape[1]} of each of {features_TPD.shape[0]} tiles"
        )
    return embeds_1ND.index_copy(1, image_positions, features[None])


def settle_rotary(language: LlamaModel, longest: int | None) -> str:
    """Dynamic rotary embeddings look at the positions of each pack, for which the host waits; where no conversation is
    longer than those trained on they never change, and are made to stay.

    Args:
        language: changed in place.
        longest: tokens of the longest conversation there can be; None where that is not known.

    Returns:
        the former `rope_type`.
    """
    rotary = language.rotary_emb
    former = str(rotary.rope_type)
    if former == "dynamic" and longest is not None and longest <= rotary.original_max_seq_len:
        rotary.rope_type = "default"
    return former


class PackedVLM(nn.Module):
    """Runs packs through a stock model, which stays whole and exportable as `.vlm`.

    The language model is set to pack attention until `release`, not only within `forward`: activation checkpointing
    runs its layers again during the backward pass. Only submodules' own forwards touch parameters, as ZeRO-3 needs.
    """

    def __init__(
        self,
        vlm: InternVLForConditionalGeneration,
        attention: Backend | None = None,
        longest: int | None = None,
        operations: Operations = PLAIN,
    ) -> None:
        """Wrap a model.

        Args:
            vlm: the model, changed until `release`.
            attention: the vision tower takes its kernels as well; without, it keeps its own.
            longest: see `settle_rotary`.
            operations: what its layers compute with.
        """
        super().__init__()
        register_pack_attention()
        self.vlm = vlm
        tower, language = vlm.model.vision_tower, vlm.model.language_model
        self._former_vision = tower.config._attn_implementation
        self._former_attention = language.config._attn_implementation
        self._former_rope = settle_rotary(language, longest)
        if attention is not None:
            tower.set_attn_implementation(attention.vision)
        language.set_attn_implementation(PACK_ATTENTION)
        self._operations = operations
        use_fused(vlm, operations)

    def release(self) -> InternVLForConditionalGeneration:
        """Put stock attention and layers back and hand out the stock model; the wrapper is of no use afterwards."""
        release_layers(self.vlm.model.vision_tower.encoder.layer)
        release_layers(self.vlm.model.language_model.layers)
        release_fused(self.vlm)
        self.vlm.model.language_model.rotary_emb.rope_type = self._former_rope
        self.vlm.model.vision_tower.set_attn_implementation(self._former_vision)
        self.vlm.model.language_model.set_attn_implementation(self._former_attention)
        return self.vlm

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        layout: PackLayout,
        label_positions: torch.Tensor,
        dummy_tile: bool = False,
        label_targets: torch.Tensor | None = None,
        head_chunks: int = 1,
        image_positions: torch.Tensor | None = None,
    ) -> torch.Tensor | LabelLosses:
        """Logits of one pack at its label positions, or with their targets the losses.

        Args:
            input_ids, position_ids: int64 [N].
            pixel_values: [T, 3, S, S], the tiles in the order of their `<IMG_CONTEXT>` tokens.
            layout: who sees whom.
            label_positions: int64 [M], the tokens whose successors are predicted.
            dummy_tile: the pack has no image; its one tile runs through the tower, so that every rank calls it equally
                often, and counts zero times.
            label_targets: int64 [M], those successors.
            head_chunks: see `models.label_loss`.
            image_positions: int64, places of the `<IMG_CONTEXT>` tokens; looked for where not given.

        Returns:
            [M, V], or `LabelLosses` where there are targets.

        Raises:
            ValueError: the tiles' tokens and the pack's `<IMG_CONTEXT>` tokens differ in number.
        """
        outputs = self.vlm.model.language_model(
            inputs_embeds=pack_embeddings(
                self.vlm, input_ids, pixel_values, dummy_tile=dummy_tile, image_positions=image_positions
            ),
            position_ids=position_ids[None],
            use_cache=False,
            pack_layout=layout,
        )
        hidden_MD = outputs.last_hidden_state[0, label_positions]
        if label_targets is None:
            return self.vlm.lm_head(hidden_MD)
        return label_losses(self.vlm.lm_head, hidden_MD, label_targets, head_chunks, self._operations)
