"""A JSON object in, its file bytes out, which begin with their own checksum; and back, refused where a bit differs.

The digest is that of the bytes with 64 zeros in its place, so a file stays plain JSON.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CHECKSUM_FIELD = "sha256"
_PLACE = "0" * 64


def dump_checked(record: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """The object as JSON text that begins with its checksum."""
    separators = (",", ":") if indent is None else None
    text = json.dumps({CHECKSUM_FIELD: _PLACE, **record}, indent=indent, separators=separators).encode()
    return text.replace(_PLACE.encode(), hashlib.sha256(text).hexdigest().encode(), 1)


def load_checked(data: bytes) -> tuple[dict[str, Any], str]:
    """The object without its checksum, and the checksum.

    Raises:
        ValueError: no JSON object, no checksum, or another one than that of the bytes.
    """
    try:
        record = json.loads(data)
    except RecursionError as error:
        raise ValueError("got JSON nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError(f"got {type(record).__name__}, expected a JSON object")
    digest = record.pop(CHECKSUM_FIELD, None)
    if not isinstance(digest, str):
        raise ValueError(f"field {CHECKSUM_FIELD!r}: got nothing, expected the file's checksum")
    got = hashlib.sha256(data.replace(digest.encode(), _PLACE.encode(), 1)).hexdigest()
    if got != digest:
        raise ValueError(f"field {CHECKSUM_FIELD!r}: got {digest[:16]}, expected {got[:16]}: the file was altered")
    return record, digest
