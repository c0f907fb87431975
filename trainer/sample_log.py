"""Batches in, `RUN_DIR/samples/rank-00000.jsonl` out: what this rank was shown, one line a step.

Each rank writes its own file, and nothing is exchanged. A line holds the step, counted from 1, and for each micro batch
its questions as [key of the frame, index of the question].
"""

import json
from collections.abc import Sequence
from pathlib import Path

from data_shards.collate import Batch
from trainer.dist import Ranks
from trainer.lines import PatientLines, keep_until
from trainer.loggers import warn

DIRECTORY = "samples"


class SampleLog:
    """Continues the files of an earlier start."""

    def __init__(self, run_dir: Path, ranks: Ranks, done: int) -> None:
        """Called on all ranks.

        Args:
            done: steps that count; later lines, of whatever number of ranks, are dropped.
        """
        directory = run_dir / DIRECTORY
        ranks.on_main(lambda: _keep_until_all(directory, done))
        path = directory / f"rank-{ranks.rank:05d}.jsonl"
        path.touch()
        self._lines = PatientLines(path, warn)

    def add(self, step: int, batches: Sequence[Batch]) -> None:
        """Write down the micro batches of a step before it is taken."""
        record = {"step": step, "micro_batches": [batch.meta.question_refs for batch in batches]}
        self._lines.add(json.dumps(record))

    def close(self) -> None:
        """Say what could not be written, if anything."""
        self._lines.close()


def _keep_until_all(directory: Path, done: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("rank-*.jsonl"):
        keep_until(path, done)
