"""Token segments and tiles of several frames come in; one Pack comes out: flat arrays, one group a frame.

A group is one prefix followed by its segments. A segment's tokens see the prefix and their own segment, and their
positions continue from the prefix, so that each question is as if it stood alone behind its image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from data_shards.chat import TokenSegments

IGNORED = -100
LossWeight = Literal["token", "sample", "square"]
LOSS_WEIGHTS = {"token": 0.0, "sample": 1.0, "square": 0.5}
"""A label token of a question with n of them weighs n to the power of minus this."""


class PackError(ValueError):
    """A pack that cannot be built; the message names field, got and expected."""


@dataclass(frozen=True, kw_only=True)
class PartMeta:
    """Where a part of a pack comes from.

    Attributes:
        key: of the frame.
        dataset: its name.
        question_ids: index in the frame of each question asked.
        kinds: kind of each question asked.
        unparsed_tags: spans of their texts that look like object tags and are none.
    """

    key: str
    dataset: str
    question_ids: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    unparsed_tags: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class PackPart:
    """One frame of a pack.

    Attributes:
        tokens: of its prefix and of the questions asked.
        tiles: uint8 [T_i, S, S, 3]; a frame without images has T_i = 0.
        meta: where it comes from.
    """

    tokens: TokenSegments
    tiles: np.ndarray
    meta: PartMeta


@dataclass(frozen=True, kw_only=True, eq=False)
class Pack:
    """One micro batch: N tokens, M label tokens, T tiles, G groups, Q questions.

    Attributes:
        input_ids, position_ids: int64 [N].
        labels: int64 [N], -100 outside answers; labels[i] is the token at i, not the one after it.
        segment_ids: int32 [N], 0 in a prefix, 1.. for its segments.
        groups: (start, end) of each group.
        tiles: uint8 [T, S, S, 3]; without any image one tile of zeros, so that the vision tower runs all the same.
        dummy_tile: the only tile is that one; no token of the pack stands for it.
        label_positions: int64 [M], the token whose hidden state predicts each label.
        label_targets: int64 [M].
        label_weights: float32 [M].
        label_questions: int32 [M], index into the three tuples a question below.
        keys: key of each group's frame.
        frame_tiles: dataset and number of tiles of each group's frame.
        question_refs: (key, question index in its frame) of each question.
        kinds, datasets: of each question.
        unparsed_tags: of all parts.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    position_ids: np.ndarray
    segment_ids: np.ndarray
    groups: tuple[tuple[int, int], ...]
    tiles: np.ndarray
    dummy_tile: bool
    label_positions: np.ndarray
    label_targets: np.ndarray
    label_weights: np.ndarray
    label_questions: np.ndarray
    keys: tuple[str, ...]
    frame_tiles: tuple[tuple[str, int], ...]
    question_refs: tuple[tuple[str, int], ...]
    kinds: tuple[str, ...]
    datasets: tuple[str, ...]
    unparsed_tags: int


def build_pack(
    parts: Sequence[PackPart],
    *,
    loss_weight: LossWeight = "token",
    coordinate_weight: float = 1.0,
    tiles: np.ndarray | None = None,
) -> Pack:
    """Join frames to one pack.

    Args:
        parts: the frames, whose groups stand in this order.
        loss_weight: `token` 1, `sample` 1/n, `square` 1/sqrt(n) for a question with n label tokens.
        coordinate_weight: factor on top of that for tokens that write a point.
        tiles: those of all parts in a row [T, S, S, 3], where they lie so already; they are not copied.

    Raises:
        PackError: no part, an unknown loss weight, tiles of several sizes.
    """
    if loss_weight not in LOSS_WEIGHTS:
        raise PackError(f"loss_weight: got {loss_weight!r}, expected one of {', '.join(LOSS_WEIGHTS)}")
    if not parts or len({part.tiles.shape[1:] for part in parts}) > 1:
        raise PackError(f"pack: got tiles {[part.tiles.shape for part in parts]}, expected frames with equal tiles")
    frames, metas = [part.tokens for part in parts], [part.meta for part in parts]
    num_segments = sum(len(tokens.segments) for tokens in frames)
    input_ids, position_ids, segment_ids, ends = _sequence(frames)
    labelled, question_of = _labelled(frames)
    counts = np.bincount(question_of, minlength=max(num_segments, 1))
    weights = counts[question_of] ** -LOSS_WEIGHTS[loss_weight]
    if coordinate_weight != 1.0:
        weights = weights * np.where(_writes_point(frames)[labelled], coordinate_weight, 1)
    labels = np.full(len(input_ids), IGNORED, np.int64)
    labels[labelled] = input_ids[labelled]
    if tiles is None:
        tiles = np.concatenate([part.tiles for part in parts])
    assert len(tiles) == sum(len(part.tiles) for part in parts), len(tiles)
    dummy_tile = len(tiles) == 0
    if dummy_tile:
        tiles = np.zeros((1, *tiles.shape[1:]), np.uint8)
    return Pack(
        input_ids=input_ids,
        labels=labels,
        position_ids=position_ids,
        segment_ids=segment_ids,
        groups=tuple(zip([0, *ends[:-1]], ends, strict=True)),
        tiles=tiles,
        dummy_tile=dummy_tile,
        label_positions=labelled - 1,
        label_targets=input_ids[labelled],
        label_weights=weights.astype(np.float32),
        label_questions=question_of.astype(np.int32),
        keys=tuple(meta.key for meta in metas),
        frame_tiles=tuple((part.meta.dataset, len(part.tiles)) for part in parts),
        question_refs=tuple((meta.key, q) for meta in metas for q in meta.question_ids),
        kinds=tuple(kind for meta in metas for kind in meta.kinds),
        datasets=tuple(meta.dataset for meta in metas for _ in meta.question_ids),
        unparsed_tags=sum(meta.unparsed_tags for meta in metas),
    )


def filler_pack(tile_size: int, token: int | None) -> Pack:
    """A pack in the place of one none of whose frames can be used: a dummy tile, no label, no frame, no weight.

    Args:
        tile_size: side of the tile in pixels.
        token: its only token, so that the language model has something to run on; None in jobs on images only.
    """
    prefix = np.array([] if token is None else [token], np.int32)
    tokens = TokenSegments(prefix=prefix, segments=(), label_spans=())
    tiles = np.zeros((0, tile_size, tile_size, 3), np.uint8)
    part = PackPart(tokens=tokens, tiles=tiles, meta=PartMeta(key="", dataset=""))
    return replace(build_pack([part]), keys=(), frame_tiles=())


def _sequence(frames: Sequence[TokenSegments]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Ids, positions and segment numbers of all frames in a row, and where each frame ends."""
    ids, positions, numbers, ends, length = [], [], [], [], 0
    for tokens in frames:
        begin = len(tokens.prefix)
        pieces = [tokens.prefix, *tokens.segments]
        for number, piece in enumerate(pieces):
            ids.append(piece)
            positions.append(np.arange(len(piece)) + (begin if number else 0))
            numbers.append(np.full(len(piece), number))
        length += sum(map(len, pieces))
        ends.append(length)
    return (
        np.concatenate(ids).astype(np.int64),
        np.concatenate(positions).astype(np.int64),
        np.concatenate(numbers).astype(np.int32),
        ends,
    )


def _labelled(frames: Sequence[TokenSegments]) -> tuple[np.ndarray, np.ndarray]:
    """Place of each label token in the pack, and the number of its question."""
    places, questions, at, number = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0, 0
    for tokens in frames:
        at += len(tokens.prefix)
        for segment, spans in zip(tokens.segments, tokens.label_spans, strict=True):
            for start, end in spans:
                assert start >= 1, "the first label token needs a token of its own segment before it"
                places.append(np.arange(at + start, at + end))
                questions.append(np.full(end - start, number))
            at, number = at + len(segment), number + 1
    return np.concatenate(places), np.concatenate(questions)


def _writes_point(frames: Sequence[TokenSegments]) -> np.ndarray:
    """Whether each token of the pack is part of a point."""
    pieces = []
    for tokens in frames:
        pieces.append(np.zeros(len(tokens.prefix), bool))
        for segment, spans in zip(tokens.segments, tokens.point_spans or ((),) * len(tokens.segments), strict=True):
            is_point = np.zeros(len(segment), bool)
            for start, end in spans:
                is_point[start:end] = True
            pieces.append(is_point)
    return np.concatenate(pieces)
