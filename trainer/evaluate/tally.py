"""Kinds of failure with the questions they occur at in, counts and first examples out."""

from collections import Counter
from typing import Any

MAX_EXAMPLES = 5


class Tally:
    """Counts kinds and keeps the ids of the first questions of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, name: str, number: int = 1) -> None:
        """Count `number` more at the question with the id `name`; 0 does nothing."""
        if number == 0:
            return
        self._counts[kind] += number
        examples = self._examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES and name not in examples:
            examples.append(name)

    def count(self, kind: str) -> int:
        """How often."""
        return self._counts[kind]

    def examples(self, kind: str) -> list[str]:
        """Ids of the first questions."""
        return self._examples.get(kind, [])

    def rows(self) -> dict[str, dict[str, Any]]:
        """{kind: {count, examples}}, frequent ones first."""
        return {kind: {"count": number, "examples": self.examples(kind)} for kind, number in self._counts.most_common()}


def share(number: int, of: int) -> float | None:
    """`number / of`, None of nothing."""
    return number / of if of else None
