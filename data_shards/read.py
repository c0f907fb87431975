"""A dataset index and a position in, that frame out: offset reads, each checked by size and checksum."""

import hashlib
import os

from data_shards.entries import MemberSpan, SampleEntry, ShardError
from data_shards.index import DatasetIndex
from data_shards.schema import RawFrame, SchemaError, frame_from_json, image_name


class BadSample(ShardError):  # noqa: N818
    """One frame that cannot be used.

    Survives pickling and being raised again with its text alone, as worker processes do.

    Attributes:
        reason: what was got and what was expected.
        shard: file name of the tar.
        offset: byte in the tar at which the damaged member begins.
        key: `<scene>_<frame>`.
    """

    def __init__(self, reason: str, *, shard: str = "", offset: int = -1, key: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.shard = shard
        self.offset = offset
        self.key = key

    def __str__(self) -> str:
        if not self.shard:
            return self.reason
        return f"{self.shard}: offset {self.offset}: frame {self.key}: {self.reason}"


def read_frame(index: DatasetIndex, position: int, *, with_images: bool = True) -> RawFrame:
    """Read one frame.

    Only members whose names the schema knows are read; whatever else the tar holds is left alone.

    Args:
        index: of the dataset.
        position: of the frame in `index.samples`.
        with_images: False reads the questions only; every image is then `b""`.

    Raises:
        BadSample: the tar is missing or cut short, a member differs from its checksum, or the record is not of the
            schema.
    """
    entry = index.samples[position]
    names = {name: suffix for suffix in entry.members if (name := image_name(suffix)) is not None}
    if "json" not in entry.members:
        raise BadSample("member 'json' is missing from the index", shard=entry.shard, key=entry.key)
    try:
        descriptor = os.open(index.root / entry.shard, os.O_RDONLY)
    except OSError as error:
        raise BadSample(f"the tar does not open: {error}", shard=entry.shard, key=entry.key) from error
    try:
        record = _read_member(descriptor, entry, "json")
        images = {
            name: _read_member(descriptor, entry, suffix) if with_images else b"" for name, suffix in names.items()
        }
    finally:
        os.close(descriptor)
    return _build(entry, record, images)


def _read_member(descriptor: int, entry: SampleEntry, suffix: str) -> bytes:
    span = entry.members[suffix]
    available = max(0, os.fstat(descriptor).st_size - span.offset)
    if available < span.size:
        raise _bad(entry, span, f"member {suffix!r}: got {available} bytes, expected {span.size}: the tar is cut short")
    data = _pread_all(descriptor, span)
    if len(data) != span.size:
        raise _bad(entry, span, f"member {suffix!r}: got {len(data)} bytes, expected {span.size}: the tar is cut short")
    digest = hashlib.sha256(data).hexdigest()
    if digest != span.sha256:
        raise _bad(entry, span, f"member {suffix!r}: got sha256 {digest[:16]}, expected {span.sha256[:16]}: damaged")
    return data


def _pread_all(descriptor: int, span: MemberSpan) -> bytes:
    parts: list[bytes] = []
    got = 0
    while got < span.size:
        part = os.pread(descriptor, span.size - got, span.offset + got)
        if not part:
            break
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def _build(entry: SampleEntry, record: bytes, images: dict[str, bytes]) -> RawFrame:
    span = entry.members["json"]
    try:
        frame = frame_from_json(record, images)
    except SchemaError as error:
        raise _bad(entry, span, str(error)) from error
    if frame.key != entry.key:
        raise _bad(entry, span, f"field 'key': got {frame.key!r}, expected {entry.key!r}: the index is of another tar")
    return frame


def _bad(entry: SampleEntry, span: MemberSpan, reason: str) -> BadSample:
    return BadSample(reason, shard=entry.shard, offset=span.offset, key=entry.key)
