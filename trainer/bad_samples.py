"""Batches in; unusable samples are written down once, and the run stops on all ranks where they are too many."""

from collections.abc import Callable, Sequence
from pathlib import Path

from data_shards.collate import Batch
from data_shards.quarantine import BadRecord, Quarantine, Tally
from trainer.dist import MainRankError, Ranks

QUARANTINE_FILE = "quarantine.jsonl"
_SHOWN = 10


class TooManyBadSamples(MainRankError):  # noqa: N818
    """More samples are unusable than the recipe allows; raised on all ranks at the same step."""


class BadSampleWatch:
    """Knows on every rank alike which samples of the run are bad; the main rank writes them to a file.

    Called on all ranks, once a step. A step costs two numbers in the sum over ranks that it makes anyway; only where a
    sample is found bad for the first time do the ranks exchange more.
    """

    def __init__(
        self,
        ranks: Ranks,
        run_dir: Path,
        *,
        max_fraction: float,
        seen: float,
        total: int,
        say: Callable[[str], None],
        counted: Sequence[BadRecord] = (),
        num_known: int | None = None,
    ) -> None:
        """Go on from what the run directory holds, and from what counting the samples found, alike on all ranks.

        Args:
            max_fraction, seen, total, counted: see `data_shards.quarantine.Tally`.
            say: prints a line for the user.
            num_known: samples of the file that were known where the run goes on. Those behind them were found after its
                checkpoint: they count when they are met again, as if the run had not been interrupted, so one that was
                stopped stops there again until they are mended. None counts all.

        Raises:
            TooManyBadSamples: counting alone found more than the recipe allows.
        """
        self._ranks, self._say, self._max_fraction, self._total = ranks, say, max_fraction, total
        self._file = Quarantine(run_dir / QUARANTINE_FILE)
        written = ranks.on_main(self._file.read)
        self._written = {record.sample for record in written}
        known = written[:num_known]
        self._tally = Tally(known, max_fraction=max_fraction, seen=seen, total=total, counted=counted)
        unwritten = self._write(counted)
        if self._tally.too_many_counted:
            raise TooManyBadSamples(self._message())
        self._tell(unwritten)

    @property
    def count(self) -> int:
        """Samples left out so far, each once, over all ranks and starts."""
        return self._tally.count

    @property
    def seen(self) -> float:
        """Samples read so far, bad ones included, over all ranks and starts."""
        return self._tally.seen

    def counts(self, batches: Sequence[Batch]) -> list[float]:
        """Of this rank's batches, to be summed over ranks: samples found bad for the first time, and samples shown."""
        seen = sum(batch.meta.num_samples + len(batch.meta.bad) for batch in batches)
        return [float(len(self._tally.unknown(_bad(batches)))), float(seen)]

    def update(self, batches: Sequence[Batch], counts: Sequence[float]) -> None:
        """Take a step in.

        Args:
            batches: of this rank.
            counts: sums over ranks of what `counts` gave.

        Raises:
            TooManyBadSamples: more than the recipe allows.
        """
        num_new, seen = counts
        self._tally.seen += seen
        if not num_new:
            return
        found = [record for records in self._ranks.gather(_bad(batches)) for record in records]
        self._tell(self._write(found))
        if self._tally.too_many:
            raise TooManyBadSamples(self._message())

    def _write(self, found: Sequence[BadRecord]) -> Sequence[BadRecord]:
        """Take in what is new, the same on all ranks; write down what no earlier start has written, and return that."""
        unwritten = [record for record in self._tally.add(found) if record.sample not in self._written]
        if unwritten:
            self._written.update(record.sample for record in unwritten)
            problem = self._ranks.on_main(lambda: self._append(unwritten))
            if problem:
                self._say(f"{self._file.path} cannot be written: {problem}; {len(unwritten)} samples are missing in it")
        return unwritten

    def _append(self, new: Sequence[BadRecord]) -> str:
        """Says what failed; the run knows the samples, and its next start finds them again."""
        try:
            self._file.append(new)
        except OSError as error:
            return str(error)
        return ""

    def _tell(self, new: Sequence[BadRecord]) -> None:
        for record in new[:_SHOWN]:
            self._say(f"left out: {record}")
        if len(new) > _SHOWN:
            self._say(f"left out: {len(new) - _SHOWN} more; all are in {self._file.path}")

    def _message(self) -> str:
        first = "\n".join(f"  {record}" for record in self._tally.first(_SHOWN))
        tally = self._tally
        return (
            f"data.max_bad_fraction: got {self.count} unusable samples of {self._total} ({tally.seen:.0f} seen); "
            f"a fraction of {self._max_fraction:g} allows {int(tally.allowed_of_all)} found when all are counted and "
            f"{int(tally.allowed)} found when they are shown; the first:\n{first}\n"
            f"all are in {self._file.path}; mend or remove these shards, or raise data.max_bad_fraction"
        )


def _bad(batches: Sequence[Batch]) -> list[BadRecord]:
    return [record for batch in batches for record in batch.meta.bad]
