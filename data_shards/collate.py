"""A Pack of numpy arrays comes in; a Batch of torch tensors comes out, with what is needed to count and to name it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from data_shards.pack import Pack
from data_shards.quarantine import BadRecord
from data_shards.teacher_targets import TileTargets

_Holder = TypeVar("_Holder", "Batch", "Targets")


@dataclass(frozen=True, kw_only=True)
class BatchMeta:
    """Origin and size of a batch; counts are of one batch and leave a dummy tile out.

    Attributes:
        keys: of each group's frame.
        frame_tiles: dataset and number of tiles of each group's frame.
        question_refs: (key, question index in its frame) of each question.
        kinds, datasets: of each question.
        unparsed_tags: spans of the texts that look like object tags and are none; the model learns them as they are.
        bad: frames of the pack that could not be used; the others stand where they would have stood.
    """

    keys: tuple[str, ...]
    frame_tiles: tuple[tuple[str, int], ...]
    question_refs: tuple[tuple[str, int], ...]
    kinds: tuple[str, ...]
    datasets: tuple[str, ...]
    num_samples: int
    num_questions: int
    num_tokens: int
    num_tiles: int
    unparsed_tags: int = 0
    bad: tuple[BadRecord, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What a teacher made of the tiles of a batch, as `teacher_targets.TileTargets`; uint16 indices are to be widened.

    Attributes:
        values: float16 [T, P, k + 1] or [T, P, V].
        indices: uint16 [T, P, k], or None.
        features: float16 [T, K, N, E], or None.
    """

    values: Tensor
    indices: Tensor | None
    features: Tensor | None

    @classmethod
    def of(cls, targets: TileTargets) -> "Targets":
        """The same as tensors, without copying."""
        return cls(
            values=torch.from_numpy(targets.values),
            indices=None if targets.indices is None else torch.from_numpy(targets.indices),
            features=None if targets.features is None else torch.from_numpy(targets.features),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Targets":
        """The same targets on another device."""
        return _map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """One micro batch: N tokens, M label tokens, T tiles.

    Attributes:
        input_ids, position_ids: int64 [N].
        segment_ids: int32 [N], 0 in a prefix, 1.. for its segments.
        groups: (start, end) of each frame's tokens.
        label_positions, label_targets: int64 [M], the token whose hidden state predicts, and the token predicted.
        label_weights: float32 [M].
        label_questions: int32 [M], index into the questions of `meta`.
        tiles: uint8 [T, S, S, 3].
        dummy_tile: the only tile is zeros and belongs to no frame.
        targets: what a teacher made of the tiles, where the loader reads that.
    """

    input_ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    groups: tuple[tuple[int, int], ...]
    label_positions: Tensor
    label_targets: Tensor
    label_weights: Tensor
    label_questions: Tensor
    tiles: Tensor
    dummy_tile: bool
    meta: BatchMeta
    targets: Targets | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; torch's DataLoader calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        moved = _map_tensors(self, change)
        return moved if self.targets is None else replace(moved, targets=_map_tensors(self.targets, change))


def _map_tensors(holder: _Holder, change: Callable[[Tensor], Tensor]) -> _Holder:
    """A dataclass with each of its tensors changed."""
    tensors: dict[str, Any] = {
        f.name: change(v) for f in fields(holder) if isinstance(v := getattr(holder, f.name), Tensor)
    }
    return replace(holder, **tensors)


@dataclass(frozen=True, kw_only=True)
class StepCounts:
    """What one rank's share of an optimiser step holds."""

    samples: int
    questions: int
    tokens: int
    label_tokens: int
    tiles: int
    unparsed_tags: int


def to_tensors(pack: Pack, bad: tuple[BadRecord, ...] = ()) -> Batch:
    """Turn a pack into a batch without copying its arrays; `bad` are the frames it was to hold as well."""
    return Batch(
        input_ids=torch.from_numpy(pack.input_ids),
        position_ids=torch.from_numpy(pack.position_ids),
        segment_ids=torch.from_numpy(pack.segment_ids),
        groups=pack.groups,
        label_positions=torch.from_numpy(pack.label_positions),
        label_targets=torch.from_numpy(pack.label_targets),
        label_weights=torch.from_numpy(pack.label_weights),
        label_questions=torch.from_numpy(pack.label_questions),
        tiles=torch.from_numpy(pack.tiles),
        dummy_tile=pack.dummy_tile,
        meta=BatchMeta(
            keys=pack.keys,
            frame_tiles=pack.frame_tiles,
            question_refs=pack.question_refs,
            kinds=pack.kinds,
            datasets=pack.datasets,
            num_samples=len(pack.keys),
            num_questions=len(pack.question_refs),
            num_tokens=len(pack.input_ids),
            num_tiles=0 if pack.dummy_tile else len(pack.tiles),
            unparsed_tags=pack.unparsed_tags,
            bad=bad,
        ),
    )


def step_counts(batches: Sequence[Batch]) -> StepCounts:
    """Sums over the micro batches of a step."""
    return StepCounts(
        samples=sum(batch.meta.num_samples for batch in batches),
        questions=sum(batch.meta.num_questions for batch in batches),
        tokens=sum(batch.meta.num_tokens for batch in batches),
        label_tokens=sum(len(batch.label_targets) for batch in batches),
        tiles=sum(batch.meta.num_tiles for batch in batches),
        unparsed_tags=sum(batch.meta.unparsed_tags for batch in batches),
    )
