"""The plan of a pack comes in; its batch comes out: frames read, decoded, tiled, tokenised and packed.

A frame that cannot be used is left out and named; its pack keeps its place and its other frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from data_shards.chat import BEGIN, ChatError, ChatTemplate, TokenSegments, tokenize_frame
from data_shards.collate import Batch, Targets, to_tensors
from data_shards.coords import read_tags
from data_shards.decode import ImageError
from data_shards.entries import SampleEntry
from data_shards.index import DatasetIndex
from data_shards.pack import LossWeight, Pack, PackPart, PartMeta, build_pack, filler_pack
from data_shards.plan import PackPlan, Visit
from data_shards.quarantine import BadRecord
from data_shards.read import BadSample, read_frame, unknown_members
from data_shards.read_ahead import WindowedPlan
from data_shards.remote import storage_of
from data_shards.schema import CAMERAS, Question, RawFrame
from data_shards.slots import TileSlots
from data_shards.storage import Unreachable
from data_shards.target_source import TargetSource
from data_shards.teacher_targets import TileTargets
from data_shards.tile_room import TileRoom
from data_shards.tiling import tile_jpegs
from data_shards.view_layout import LayoutError, ViewLayout


@dataclass(frozen=True, kw_only=True)
class FrameSource:
    """One dataset of a mixture: its name in metrics, its index, its weight (see `MixtureEntry`), and what a teacher
    made of its tiles, where that is wanted: of all datasets of a mixture or of none."""

    name: str
    index: DatasetIndex
    weight: float = 1.0
    targets: TargetSource | None = None


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How questions become tokens; `tokens_per_tile` is the number of image tokens of one tile.

    The weights are of label tokens, see `build_pack`.
    """

    tokenizer: PreTrainedTokenizerFast
    template: ChatTemplate
    tokens_per_tile: int
    loss_weight: LossWeight = "token"
    coordinate_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SlottedBatch:
    """A batch on its way from a worker: its tiles, of this shape, lie in a slot of shared memory."""

    batch: Batch
    slot: int
    shape: tuple[int, ...]

    def whole(self, slots: TileSlots) -> Batch:
        """The batch with its tiles."""
        return replace(self.batch, tiles=slots.tensor(self.slot, self.shape))


class FrameDataset(Dataset):
    """Makes the batch of a PackPlan: read, decode, tile, tokenise, pack. Without `text`, tiles only."""

    def __init__(
        self,
        sources: Sequence[FrameSource],
        layout: ViewLayout,
        text: TextSettings | None,
        slots: TileSlots | None = None,
    ) -> None:
        """Set up; with `slots` a worker leaves the tiles there, where one is free."""
        self.sources, self.layout, self.text, self.slots = sources, layout, text, slots

    def __getitem__(self, plan: PackPlan) -> "Batch | SlottedBatch | Unreachable":
        """The batch; or why the store of its frames could not be read, which is no fault of theirs."""
        try:
            self._fetch(plan)
        except Unreachable as error:
            return error
        parts, targets, bad = [], [], []
        room = TileRoom(self.slots, self.layout.tile_size)
        for visit in plan.visits:
            source = self.sources[visit.dataset]
            try:
                part = self._part(source, visit, room)
                targets += self._targets(source, visit, len(part.tiles))
                room.keep(len(part.tiles))
                parts.append(part)
            except BadSample as error:
                bad.append(BadRecord.of(error, source.name))
            except Unreachable as error:
                room.close()
                return error
        row = room.row()
        batch = replace(to_tensors(self._pack(parts, row), tuple(bad)), targets=self._joined(targets))
        if row is None or room.slot is None:
            room.close()
            return batch
        unfilled = replace(batch, tiles=torch.empty(0, dtype=torch.uint8))
        return SlottedBatch(batch=unfilled, slot=room.slot, shape=row.shape)

    def _fetch(self, plan: PackPlan) -> None:
        """Let the store of remote frames bring what this pack and later ones need in few requests."""
        for window in plan.windows if isinstance(plan, WindowedPlan) else ():
            spans = [(span.offset, span.size) for span in window.spans]
            try:
                storage_of(self.sources[window.dataset].index).fetch(window.spans[0].shard, spans)
            except Unreachable:
                raise
            except OSError:
                return  # each frame of it says so when it is read

    def _pack(self, parts: list[PackPart], row: np.ndarray | None) -> Pack:
        if not parts:
            token = self.text.tokenizer.get_vocab()[BEGIN] if self.text else None
            return filler_pack(self.layout.tile_size, token)
        if self.text is None:
            return build_pack(parts, tiles=row)
        return build_pack(
            parts,
            loss_weight=self.text.loss_weight,
            coordinate_weight=self.text.coordinate_weight,
            tiles=row,
        )

    def _targets(self, source: FrameSource, visit: Visit, num_tiles: int) -> list[TileTargets]:
        if source.targets is None:
            return []
        return [source.targets.read(visit.sample, source.index.samples[visit.sample], num_tiles)]

    def _joined(self, targets: list[TileTargets]) -> Targets | None:
        """Of all tiles of a pack, or of its dummy tile; None where no dataset has them."""
        source = self.sources[0].targets
        if source is None:
            return None
        num_tiles = sum(len(own.values) for own in targets)
        return Targets.of(TileTargets.joined(targets) if num_tiles else source.zeros(1))

    def _part(self, source: FrameSource, visit: Visit, room: TileRoom) -> PackPart:
        entry = source.index.samples[visit.sample]
        unknown = unknown_members(entry)
        if unknown:
            raise _bad(entry, f"member {unknown[0]!r}: got an unknown name, expected 'json' or an image of the schema")
        frame = read_frame(source.index, visit.sample)
        missing = sorted(set(CAMERAS) - set(frame.images))
        if self.layout.mode == "canvas" and 0 < len(missing) < len(CAMERAS):
            raise _bad(entry, f"field 'images': {', '.join(missing)} missing, expected all six cameras for the canvas")
        try:
            tiles, counts = tile_jpegs(frame.images, self.layout, allocate=room.allocate)
            tokens = self._tokens(frame, counts, visit.questions)
        except (ImageError, LayoutError, ChatError) as error:
            raise _bad(entry, str(error)) from error
        asked = [frame.questions[q] for q in visit.questions]
        meta = PartMeta(
            key=frame.key,
            dataset=source.name,
            question_ids=visit.questions,
            kinds=tuple(question.kind for question in asked),
            unparsed_tags=sum(map(_unparsed_tags, asked)),
        )
        return PackPart(tokens=tokens, tiles=tiles, meta=meta)

    def _tokens(self, frame: RawFrame, tiles_per_image: list[int], questions: tuple[int, ...]) -> TokenSegments:
        if self.text is None:
            return TokenSegments(prefix=np.zeros(0, np.int32), segments=(), label_spans=())
        per_image = [tiles * self.text.tokens_per_tile for tiles in tiles_per_image]
        return tokenize_frame(frame, per_image, self.text.tokenizer, self.text.template, questions)


def _unparsed_tags(question: Question) -> int:
    texts = (text for turn in question.turns for text in turn if "<" in text)
    return sum(len(read_tags(text).unparsed) for text in texts)


def _bad(entry: SampleEntry, reason: str) -> BadSample:
    return BadSample(reason, shard=entry.shard, offset=entry.members["json"].offset, key=entry.key)
