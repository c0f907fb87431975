"""What an index says of a shard: frames, their members, and where each member's bytes lie."""

from collections.abc import Mapping
from dataclasses import dataclass


class ShardError(ValueError):
    """A shard directory, a shard or an index that cannot be used; the message names the file and the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberSpan:
    """Where a member's data lies in its tar.

    Attributes:
        offset: first byte of the data, counted from the beginning of the tar.
        size: bytes of data.
        sha256: hexadecimal digest of the data.
    """

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleEntry:
    """One frame of a shard.

    Attributes:
        key: `<scene>_<frame>`.
        shard: file name of the tar.
        members: member suffix (`json`, `cam_front.jpg`, ...) to its place.
        num_questions, num_images: counts, known without reading the members.
        image_sizes: width and height of each image in pixels, in the frame's order; (0, 0) for an image whose header
            does not parse (decoding it raises).
    """

    key: str
    shard: str
    members: Mapping[str, MemberSpan]
    num_questions: int
    num_images: int
    image_sizes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Rows of a source that cannot become a frame, and why.

    Attributes:
        lines: lines of the annotation file (from 1), or places of samples in tars.
        field, got, expected: what was wrong.
    """

    lines: tuple[int, ...]
    field: str
    got: str
    expected: str

    def __str__(self) -> str:
        return f"line {self.lines[0]}: field {self.field!r}: got {self.got}, expected {self.expected}"
