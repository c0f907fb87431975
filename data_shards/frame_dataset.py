"""The plan of a pack comes in; its batch comes out: frames read, decoded, tiled, tokenised and packed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from data_shards.chat import ChatError, ChatTemplate, TokenSegments, tokenize_frame
from data_shards.collate import Batch, to_tensors
from data_shards.decode import ImageError, decode_jpeg
from data_shards.index import DatasetIndex
from data_shards.pack import LossWeight, PartMeta, build_pack
from data_shards.plan import PackPlan, Visit
from data_shards.read import BadSample, read_frame
from data_shards.schema import CAMERAS, RawFrame
from data_shards.tiling import LayoutError, ViewLayout, tile_images, tiles_per_image


@dataclass(frozen=True, kw_only=True)
class FrameSource:
    """One dataset of a mixture: its name in metrics, its index, its weight (see `MixtureEntry`)."""

    name: str
    index: DatasetIndex
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How questions become tokens; `tokens_per_tile` is the number of image tokens of one tile."""

    tokenizer: PreTrainedTokenizerFast
    template: ChatTemplate
    tokens_per_tile: int
    loss_weight: LossWeight = "token"


class FrameDataset(Dataset):
    """Makes the batch of a PackPlan: read, decode, tile, tokenise, pack. Without `text`, tiles only."""

    def __init__(self, sources: Sequence[FrameSource], layout: ViewLayout, text: TextSettings | None) -> None:
        self.sources, self.layout, self.text = sources, layout, text

    def __getitem__(self, plan: PackPlan) -> "Batch | BadSample":
        """The batch, or the sample that spoilt it: raised in the reading process it keeps its shard and key."""
        try:
            parts = [self._part(visit) for visit in plan.visits]
        except BadSample as bad:
            return bad
        return to_tensors(build_pack(parts, loss_weight=self.text.loss_weight if self.text else "token"))

    def _part(self, visit: Visit) -> tuple[TokenSegments, np.ndarray, PartMeta]:
        source = self.sources[visit.dataset]
        frame = read_frame(source.index, visit.sample)
        try:
            images = self._decode(frame)
            tiles = tile_images(images, self.layout)
            tokens = self._tokens(frame, [(image.shape[1], image.shape[0]) for image in images], visit.questions)
        except (ImageError, LayoutError, ChatError) as error:
            entry = source.index.samples[visit.sample]
            offset = entry.members["json"].offset
            raise BadSample(str(error), shard=entry.shard, offset=offset, key=entry.key) from error
        kinds = tuple(frame.questions[q].kind for q in visit.questions)
        meta = PartMeta(key=frame.key, dataset=source.name, question_ids=visit.questions, kinds=kinds)
        return tokens, tiles, meta

    def _decode(self, frame: RawFrame) -> list[np.ndarray]:
        names = list(frame.images)
        if self.layout.mode == "canvas" and set(names) == set(CAMERAS):
            names = list(CAMERAS)
        return [decode_jpeg(frame.images[name]) for name in names]

    def _tokens(self, frame: RawFrame, sizes: list[tuple[int, int]], questions: tuple[int, ...]) -> TokenSegments:
        if self.text is None:
            return TokenSegments(prefix=np.zeros(0, np.int32), segments=(), label_starts=())
        per_image = [tiles * self.text.tokens_per_tile for tiles in tiles_per_image(sizes, self.layout)]
        return tokenize_frame(frame, per_image, self.text.tokenizer, self.text.template, questions)
