"""What a teacher made of the tiles of a frame, as members of a tar sample of the frame's key; and back, checked.

A sample holds `<key>.json` (number of tiles, digest of the images they were cut from, or why there are none), and where
there are tiles `<key>.values.npy`, `<key>.indices.npy` unless all entries are kept, and `<key>.features.npy` if asked.

Shape suffixes: T tiles, P patches of a tile, k entries kept, V codebook entries, K layers, N tokens of a tile, E width.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from data_shards.entries import SampleEntry, ShardError
from data_shards.schema import image_name

KIND = "teacher-targets"
VALUES, INDICES, FEATURES = "values.npy", "indices.npy", "features.npy"


@dataclass(frozen=True, kw_only=True, eq=False)
class TileTargets:
    """What a teacher made of T tiles.

    Attributes:
        values: float16 [T, P, k + 1], log-probabilities of each patch's k likeliest codebook entries and, last, of all
            others together; or [T, P, V], of all entries in their order.
        indices: uint16 [T, P, k], those entries; None where all are kept.
        features: float16 [T, K, N, E], hidden states of the last layers, first of them first; None where not kept.
    """

    values: np.ndarray
    indices: np.ndarray | None = None
    features: np.ndarray | None = None

    def members(self) -> dict[str, np.ndarray]:
        """Arrays by member suffix."""
        arrays = {VALUES: self.values, INDICES: self.indices, FEATURES: self.features}
        return {suffix: array for suffix, array in arrays.items() if array is not None}

    @classmethod
    def of(cls, members: Mapping[str, np.ndarray]) -> "TileTargets":
        """The inverse of `members`."""
        return cls(values=members[VALUES], indices=members.get(INDICES), features=members.get(FEATURES))

    @classmethod
    def joined(cls, parts: Sequence["TileTargets"]) -> "TileTargets":
        """Those of several frames in a row."""
        members = [part.members() for part in parts]
        return cls.of({suffix: np.concatenate([own[suffix] for own in members]) for suffix in members[0]})

    def split(self, counts: Sequence[int]) -> list["TileTargets"]:
        """The inverse of `joined`, by the number of tiles of each."""
        ends = np.cumsum(counts)[:-1]
        pieces = {suffix: np.split(array, ends) for suffix, array in self.members().items()}
        return [type(self).of({suffix: own[i] for suffix, own in pieces.items()}) for i in range(len(counts))]


@dataclass(frozen=True, kw_only=True)
class TargetsRecord:
    """What targets were made with; `dataset.json` holds it, and readers compare it with what they need.

    Attributes:
        teacher_sha256, codebook_sha256: of the files.
        preprocessing_sha256: of everything between JPEGs and pixels.
        temperature: at which the log-probabilities are taken.
        codebook_temperature: cosine similarities over this are the logits.
        entries: V; top_k: k, 0 where all are kept.
        layers: K, 0 where no features are kept; patches: P; width: E.
        dtype: the teacher computed in.
    """

    teacher_sha256: str
    codebook_sha256: str
    preprocessing_sha256: str
    temperature: float
    codebook_temperature: float
    entries: int
    top_k: int
    layers: int
    patches: int
    width: int
    dtype: str

    def build(self) -> dict[str, Any]:
        """As `dataset.json` holds it."""
        return {"kind": KIND, **asdict(self)}

    @classmethod
    def of_build(cls, build: Mapping[str, Any]) -> "TargetsRecord | None":
        """The record in a `dataset.json`; None where its shards hold no targets."""
        names = [field.name for field in fields(cls)]
        if build.get("kind") != KIND or not all(name in build for name in names):
            return None
        return cls(**{name: build[name] for name in names})

    def shapes(self, num_tiles: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of each member of a frame."""
        kept = self.top_k + 1 if self.top_k else self.entries
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {VALUES: ("<f2", (num_tiles, self.patches, kept))}
        if self.top_k:
            shapes[INDICES] = ("<u2", (num_tiles, self.patches, self.top_k))
        if self.layers:
            shapes[FEATURES] = ("<f2", (num_tiles, self.layers, self.patches + 1, self.width))
        return shapes

    def zeros(self, num_tiles: int, suffixes: Sequence[str]) -> TileTargets:
        """Targets that say nothing, for tiles that count nothing."""
        shapes = self.shapes(num_tiles)
        return TileTargets.of({suffix: np.zeros(shapes[suffix][1], shapes[suffix][0]) for suffix in suffixes})


def encode(entry: SampleEntry, targets: TileTargets | str | None) -> dict[str, bytes]:
    """The members of a frame's sample.

    Args:
        entry: of the frame in its dataset.
        targets: of its tiles; None where it has no image; or why they could not be made.
    """
    arrays = targets.members() if isinstance(targets, TileTargets) else {}
    record = {
        "tiles": len(arrays[VALUES]) if arrays else 0,
        "images": images_digest(entry),
        "reason": targets if isinstance(targets, str) else "",
    }
    return {"json": json.dumps(record).encode(), **{suffix: _to_npy(array) for suffix, array in arrays.items()}}


def decode(
    members: Mapping[str, bytes], entry: SampleEntry, num_tiles: int, record: TargetsRecord, suffixes: Sequence[str]
) -> TileTargets:
    """Targets of a frame from the members of its sample.

    Args:
        members: whole, by suffix.
        entry: of the frame in its dataset.
        num_tiles: that the frame has as it is shown now.
        record: of the targets.
        suffixes: which members are wanted.

    Raises:
        ShardError: they are of other images or another number of tiles, could not be made, or have another shape.
    """
    own = json.loads(members["json"])
    if own["reason"]:
        raise ShardError(f"there are none: when they were made, {own['reason']}")
    if own["images"] != images_digest(entry):
        raise ShardError("they were made from other images of this frame; write the targets again")
    if own["tiles"] != num_tiles:
        raise ShardError(f"got targets of {own['tiles']} tiles, expected {num_tiles}; write the targets again")
    if not num_tiles:
        return record.zeros(0, suffixes)
    missing = [suffix for suffix in suffixes if suffix not in members]
    if missing:
        raise ShardError(f"member {missing[0]!r} is missing; write the targets again")
    shapes = record.shapes(num_tiles)
    return TileTargets.of({suffix: _from_npy(members[suffix], *shapes[suffix], suffix) for suffix in suffixes})


def images_digest(entry: SampleEntry) -> str:
    """A digest of a frame's images, from the checksums in its index entry."""
    lines = [f"{suffix} {span.sha256}" for suffix, span in sorted(entry.members.items()) if image_name(suffix)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _to_npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _from_npy(data: bytes, dtype: str, shape: tuple[int, ...], suffix: str) -> np.ndarray:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ShardError(f"member {suffix!r}: got {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
    return array
