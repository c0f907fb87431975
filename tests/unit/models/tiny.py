"""Tiny models, and packs for them: numbers of tiles and tokens in, a pack and the conversations it stands for out."""

from dataclasses import dataclass

import torch
from transformers import InternVLForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from models.attention import PackLayout, pack_layout
from models.presets import vlm_preset
from models.vlm import build_vlm

VOCAB = 64
IMAGE_TOKEN = 60
TILE_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class TinyPack:
    """A pack beside the separate conversations it was made of.

    Attributes:
        conversations: for each segment (token ids of prefix + segment, tiles of its group, first predicting position).
        labels_of: for each segment, its range among `label_positions`.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segment_ids: torch.Tensor
    groups: tuple[tuple[int, int], ...]
    pixels: torch.Tensor
    label_positions: torch.Tensor
    conversations: tuple[tuple[torch.Tensor, torch.Tensor, int], ...]
    labels_of: tuple[tuple[int, int], ...]

    @property
    def layout(self) -> PackLayout:
        """The attention layout."""
        return pack_layout(self.groups, self.segment_ids)


def tiny_vlm(seed: int = 0, projector: str = "mlp") -> InternVLForConditionalGeneration:
    """A random `tiny-vlm` over a vocabulary of 64."""
    config = vlm_preset("tiny-vlm", vocab_size=VOCAB, image_token_id=IMAGE_TOKEN)
    return build_vlm(config, torch.Generator().manual_seed(seed), projector=projector)


def float64_norm(self: LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
    """RMSNorm without the stock class's passage through float32."""
    return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def tiny_pack(tiles: tuple[int, ...], segments: tuple[tuple[int, ...], ...], seed: int = 0) -> TinyPack:
    """A pack of groups: group g has `tiles[g]` tiles and segments of `segments[g]` tokens, their last half labels."""
    generator = torch.Generator().manual_seed(seed)
    ids, positions, segment_ids, labels, groups, pixels = [], [], [], [], [], []
    conversations, labels_of = [], []
    for count, lengths in zip(tiles, segments, strict=True):
        start = len(ids)
        words = _words(5, generator)
        prefix = [*words[:3], *[IMAGE_TOKEN] * (TILE_TOKENS * count), *words[3:]]
        own = torch.randn(count, 3, 112, 112, generator=generator)
        ids += prefix
        positions += range(len(prefix))
        segment_ids += [0] * len(prefix)
        for number, length in enumerate(lengths, start=1):
            segment = _words(length, generator)
            first = length // 2
            labels_of.append((len(labels), len(labels) + length - first))
            labels += range(len(ids) + first, len(ids) + length)
            ids += segment
            positions += range(len(prefix), len(prefix) + length)
            segment_ids += [number] * length
            conversations.append((torch.tensor(prefix + segment), own, len(prefix) + first))
        groups.append((start, len(ids)))
        pixels.append(own)
    return TinyPack(
        input_ids=torch.tensor(ids),
        position_ids=torch.tensor(positions),
        segment_ids=torch.tensor(segment_ids, dtype=torch.int32),
        groups=tuple(groups),
        pixels=torch.cat(pixels),
        label_positions=torch.tensor(labels),
        conversations=tuple(conversations),
        labels_of=tuple(labels_of),
    )


def _words(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(3, IMAGE_TOKEN, (count,), generator=generator).tolist()
