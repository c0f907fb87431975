"""A dataset index and a position in, that frame out: one read by offset, each member checked by size and sha256."""

import hashlib
from collections.abc import Sequence

from data_shards.entries import MemberSpan, SampleEntry, ShardError
from data_shards.index import DatasetIndex
from data_shards.remote import storage_of
from data_shards.schema import (
    CAMERAS,
    MAX_IMAGE_BYTES,
    MAX_RECORD_BYTES,
    TAGS,
    RawFrame,
    SchemaError,
    frame_from_json,
    image_name,
)
from data_shards.storage import Storage, Unreachable

_MAX_GAP = 4096
"""Headers and padding between two members of a frame take less."""


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
    """Read one frame, in one request.

    Only members whose names the schema knows are looked at; `unknown_members` gives the others.

    Args:
        index: of the dataset, here or at an address.
        position: of the frame in `index.samples`.
        with_images: False reads the questions only; every image is then `b""`.

    Raises:
        BadSample: the tar is missing or cut short, a member is too long, elsewhere than the frame's others or differs
            from its checksum, or the record is not of the schema.
        Unreachable: a remote store does not answer.
    """
    entry = index.samples[position]
    _check_members(entry)
    names = _image_names(entry)
    wanted = ["json", *names] if with_images else ["json"]
    data = _read_members(storage_of(index), entry, wanted)
    images = {name: data.get(suffix, b"") for suffix, name in names.items()}
    return _build(entry, data["json"], images)


def read_members(index: DatasetIndex, position: int, suffixes: Sequence[str], most_bytes: int) -> dict[str, bytes]:
    """Read members of a sample that need not be a frame, in one request, each checked by size and sha256.

    Args:
        index, position: as `read_frame`.
        suffixes: of the members.
        most_bytes: a longer member is refused before it is read.

    Raises:
        BadSample, Unreachable: as `read_frame`; a member that the sample lacks.
    """
    entry = index.samples[position]
    _check_members(entry, most_bytes)
    missing = [suffix for suffix in suffixes if suffix not in entry.members]
    if missing:
        raise BadSample(f"member {missing[0]!r} is missing from the index", shard=entry.shard, key=entry.key)
    return _read_members(storage_of(index), entry, suffixes)


def frame_span(entry: SampleEntry) -> tuple[int, int]:
    """First byte and number of bytes that `read_frame` asks for with images."""
    return _range([entry.members[suffix] for suffix in ("json", *_image_names(entry))])


def unknown_members(entry: SampleEntry) -> list[str]:
    """Suffixes of a frame's members that the schema does not know."""
    return [suffix for suffix in entry.members if suffix != "json" and image_name(suffix) is None]


def has_all_cameras(entry: SampleEntry) -> bool:
    """Whether a sample is a driving frame: it has the six views."""
    return set(CAMERAS) <= set(_image_names(entry).values())


def _image_names(entry: SampleEntry) -> dict[str, str]:
    """Suffix to name of each image member."""
    return {suffix: name for suffix in entry.members if (name := image_name(suffix)) is not None}


def _range(spans: Sequence[MemberSpan]) -> tuple[int, int]:
    begin = min(span.offset for span in spans)
    return begin, max(span.offset + span.size for span in spans) - begin


def _check_members(entry: SampleEntry, most_bytes: int = MAX_IMAGE_BYTES) -> None:
    if "json" not in entry.members:
        raise BadSample("member 'json' is missing from the index", shard=entry.shard, key=entry.key)
    end = -1
    for suffix, span in sorted(entry.members.items(), key=lambda item: item[1].offset):
        most = MAX_RECORD_BYTES if suffix == "json" else most_bytes
        if span.size > most:
            raise _bad(entry, span, f"member {suffix!r}: got {span.size} bytes, expected at most {most}")
        if end >= 0 and not 0 <= span.offset - end <= _MAX_GAP:
            raise _bad(entry, span, f"member {suffix!r}: not next to the others of its frame: the index is damaged")
        end = span.offset + span.size


def _read_members(storage: Storage, entry: SampleEntry, suffixes: Sequence[str]) -> dict[str, bytes]:
    spans = {suffix: entry.members[suffix] for suffix in suffixes}
    begin, size = _range(list(spans.values()))
    for _ in range(2):
        try:
            data = storage.read(entry.shard, begin, size)
        except Unreachable:
            raise
        except OSError as error:
            first = min(spans.values(), key=lambda span: span.offset)
            raise _bad(entry, first, f"the tar does not open or read: {error}") from error
        members = {s: data[span.offset - begin :][: span.size] for s, span in spans.items()}
        damage = _damage(entry, members)
        if damage is None:
            return members
        if not storage.forget(entry.shard, begin, size):
            break
    assert damage is not None
    raise damage


def _damage(entry: SampleEntry, members: dict[str, bytes]) -> BadSample | None:
    for suffix, data in members.items():
        span = entry.members[suffix]
        got = f"member {suffix!r}: got"
        if len(data) != span.size:
            return _bad(entry, span, f"{got} {len(data)} bytes, expected {span.size}: the tar is cut short")
        digest = hashlib.sha256(data).hexdigest()
        if digest != span.sha256:
            return _bad(entry, span, f"{got} sha256 {digest[:16]}, expected {span.sha256[:16]}: damaged")
    return None


def _build(entry: SampleEntry, record: bytes, images: dict[str, bytes]) -> RawFrame:
    span = entry.members["json"]
    try:
        frame = frame_from_json(record, images)
    except SchemaError as error:
        raise _bad(entry, span, str(error)) from error
    if frame.key != entry.key:
        raise _bad(entry, span, f"field 'key': got {frame.key!r}, expected {entry.key!r}: the index is of another tar")
    for i, question in enumerate(frame.questions):
        if any(tag not in TAGS for tag in question.tags):
            raise _bad(entry, span, f"question {i}: field 'tag': got {list(question.tags)}, expected numbers 0 to 3")
    return frame


def _bad(entry: SampleEntry, span: MemberSpan, reason: str) -> BadSample:
    return BadSample(reason, shard=entry.shard, offset=span.offset, key=entry.key)
