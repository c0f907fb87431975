"""Lines of text in, appended to a file out; where the disk takes none they wait in memory, and training goes on.

A run that goes on drops the lines behind the step it goes on from.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_shards.json_lines import keep_lines


class PatientLines:
    """The end of a text file. What a full disk does not take is written as soon as there is room again.

    Attributes:
        stuck: the last line had to wait.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        """Args: say: takes a line for the user, when the file cannot be written, and when it can be again."""
        self._path, self._say = path, say
        self._waiting = b""
        self.stuck = False

    def add(self, line: str) -> None:
        """Append a line behind those that wait."""
        self._waiting += f"{line}\n".encode()
        try:
            with self._path.open("ab", buffering=0) as file:
                while self._waiting:
                    self._waiting = self._waiting[file.write(self._waiting) :]
        except OSError as error:
            if not self.stuck:
                self._say(f"{self._path} cannot be written: {error}; training goes on, and its lines wait in memory")
            self.stuck = True
            return
        if self.stuck:
            self._say(f"{self._path} is written again, with the lines that waited")
        self.stuck = False

    def close(self) -> None:
        """Say what is lost, if anything."""
        if self._waiting:
            self._say(f"{self._path}: {self._waiting.count(10)} lines found no room on the disk and are lost")


def keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop lines of JSON whose `step` is later, and one that was cut off; the records of the others."""
    return keep_lines(path, lambda record: record["step"] <= step)


def json_number(value: float) -> float | None:
    """JSON has no word for numbers that are none."""
    return value if math.isfinite(value) else None
