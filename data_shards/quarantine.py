"""Bad samples in, one JSON line each in a file out, so that what was left out is named and counted."""

import json
from pathlib import Path

from data_shards.read import BadSample


class Quarantine:
    """A list of frames that could not be used, kept in a JSON-lines file that only grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0

    @property
    def count(self) -> int:
        """Frames added by this object."""
        return self._count

    def add(self, bad: BadSample) -> None:
        """Append shard, offset, key and reason of a frame as one line."""
        record = {"shard": bad.shard, "offset": bad.offset, "key": bad.key, "reason": bad.reason}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._count += 1
