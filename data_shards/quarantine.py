"""Samples that cannot be used in, one JSON line each in a file out; and the rule by which they are too many."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from data_shards.json_lines import keep_lines
from data_shards.read import BadSample

JUDGED = 10
"""Allowed samples over which the fraction is judged: before, it is too uncertain."""


_NO_UTF_8 = "backslashreplace"
"""Names in a tar need not be UTF-8; what is not is written as an escape, which JSON reads back."""


@dataclass(frozen=True, kw_only=True)
class BadRecord:
    """A sample that was left out: name of its dataset, file name of the tar, byte in it, frame key, why."""

    dataset: str
    shard: str
    offset: int
    key: str
    reason: str

    @classmethod
    def of(cls, bad: BadSample, dataset: str) -> "BadRecord":
        """The record of an error that reading a dataset raised."""
        return cls(dataset=dataset, shard=bad.shard, offset=bad.offset, key=bad.key, reason=bad.reason)

    @property
    def sample(self) -> tuple[str, str]:
        """What makes it the same sample: dataset and key."""
        return self.dataset, self.key

    def __str__(self) -> str:
        text = f"{self.dataset}: {self.shard}: offset {self.offset}: frame {self.key}: {self.reason}"
        return text.encode(errors=_NO_UTF_8).decode()


class Quarantine:
    """A list of samples that could not be used, kept in a JSON-lines file that only grows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[BadRecord]:
        """What earlier starts of the run left out; a last line that was cut off is removed."""
        return [BadRecord(**record) for record in keep_lines(self.path, _is_bad_record)]

    def append(self, records: Iterable[BadRecord]) -> None:
        """Add one line a record, on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", errors=_NO_UTF_8) as file:
            file.writelines(json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())


def _is_bad_record(record: Any) -> bool:
    return isinstance(record, dict) and record.keys() == {field.name for field in fields(BadRecord)}


class Tally:
    """Which samples of a run are known to be bad, each once, and whether they are too many."""

    def __init__(
        self,
        known: Iterable[BadRecord],
        *,
        max_fraction: float,
        seen: float = 0.0,
        total: int = 0,
        counted: Iterable[BadRecord] = (),
    ) -> None:
        """Begin with what is known.

        Args:
            known: of earlier starts.
            counted: found when all samples were counted, before the first was shown; not yet among the known.
            max_fraction: largest fraction of the samples seen that may be bad.
            seen: samples shown before.
            total: samples of all datasets; 0 where it is not known.
        """
        self._records = {record.sample: record for record in known}
        self._counted = {record.sample for record in counted}
        self._max_fraction, self._total = max_fraction, total
        self.seen = seen

    @property
    def count(self) -> int:
        """Samples known to be bad."""
        return len(self._records)

    def unknown(self, records: Iterable[BadRecord]) -> list[BadRecord]:
        """Those of the records that are not known yet, each sample once, in order."""
        found = {record.sample: record for record in records if record.sample not in self._records}
        return [found[sample] for sample in sorted(found)]

    def add(self, records: Iterable[BadRecord]) -> list[BadRecord]:
        """Take records in; returns those that were unknown."""
        new = self.unknown(records)
        self._records.update({record.sample: record for record in new})
        return new

    def first(self, count: int) -> Sequence[BadRecord]:
        """The samples that became known first."""
        return list(self._records.values())[:count]

    @property
    def allowed(self) -> float:
        """Bad samples that may be found while they are shown.

        The fraction of the samples seen, but at least one, so that a single one never stops a small run, and at least
        the fraction of the first `JUDGED / max_fraction` samples (of all, where there are fewer), so that two that come
        early by chance do not stop a large one. Nothing where the fraction is 0.
        """
        if self._max_fraction == 0:
            return 0.0
        return max(1.0, self._max_fraction * self.seen, min(self._max_fraction * self._total, JUDGED))

    @property
    def allowed_of_all(self) -> float:
        """Samples that may be found bad when all are counted: the fraction, but at least one; nothing where it is 0."""
        return max(1.0, self._max_fraction * self._total) if self._max_fraction else 0.0

    @property
    def too_many_counted(self) -> bool:
        """Whether counting all samples found more bad ones than allowed."""
        return len(self._counted) > self.allowed_of_all

    @property
    def too_many(self) -> bool:
        """Whether more are bad than allowed: those found by counting, of all samples; the others, of those seen."""
        found = sum(sample not in self._counted for sample in self._records)
        return self.too_many_counted or found > self.allowed
