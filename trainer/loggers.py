"""Scalars, pictures and lines in; a progress bar, metrics.jsonl and TensorBoard files out, on the main rank alone.

Other ranks get the null logger: callers never ask for a rank.
"""

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from trainer.curves import Curves
from trainer.dist import Ranks, is_main_process
from trainer.lines import PatientLines, json_number, keep_until

SECONDS_FOR_MAIN = 10.0


class Logger(Protocol):
    """What the loop needs of a logger."""

    def say(self, text: str) -> None:
        """A line for the user, kept apart from the progress bar."""

    def step_done(self, step: int) -> None:
        """Move the bar on."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values of a log step; `step` counts finished steps."""

    def picture(self, step: int, name: str, image_HWC: np.ndarray, caption: str) -> None:
        """An image, uint8 RGB, with its text."""

    def close(self) -> None:
        """Flush and close."""


class NullLogger:
    """Takes everything, keeps nothing."""

    def say(self, text: str) -> None: ...

    def step_done(self, step: int) -> None: ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, name: str, image_HWC: np.ndarray, caption: str) -> None: ...

    def close(self) -> None: ...


class RunLogger:
    """Writes into a run directory and shows a bar on standard error. A disk that takes nothing more ends no run."""

    def __init__(self, run_dir: Path, *, title: str, steps: int, done: int) -> None:
        """Continue the curves of an earlier start after step `done`; later entries of it are dropped."""
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / "metrics.jsonl"
        keep_until(path, done)
        path.touch()
        self._lines = PatientLines(path, self.say)
        self._curves = Curves(run_dir / "tensorboard", done=done, say=self.say)
        interval = 0.5 if sys.stderr.isatty() else 15.0
        self._bar = tqdm(total=steps, initial=done, desc=title, unit="step", mininterval=interval, dynamic_ncols=True)

    def say(self, text: str) -> None:
        with _whatever_takes_it():
            self._bar.write(text, file=sys.stderr)

    def step_done(self, step: int) -> None:
        with _whatever_takes_it():
            self._bar.update(step - self._bar.n)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        record = {"step": step, "time": round(time.time(), 3), **{n: json_number(v) for n, v in values.items()}}
        self._lines.add(json.dumps(record))
        if not self._lines.stuck:
            self._curves.scalars(step, values)
        if "loss/total" in values:
            self._bar.set_postfix_str(
                f"loss {values['loss/total']:.4f}, {values['rate/samples_per_s']:.1f} samples/s", refresh=False
            )

    def picture(self, step: int, name: str, image_HWC: np.ndarray, caption: str) -> None:
        if not self._lines.stuck:
            self._curves.picture(step, name, image_HWC, caption)

    def close(self) -> None:
        self._lines.close()
        self._curves.close()
        with _whatever_takes_it():
            self._bar.close()


def make_logger(ranks: Ranks, run_dir: Path, *, title: str, steps: int, done: int) -> Logger:
    """The logger of this rank."""
    return RunLogger(run_dir, title=title, steps=steps, done=done) if ranks.is_main else NullLogger()


def announce(text: str) -> None:
    """Print a line before or after training, once for all ranks."""
    if is_main_process():
        with _whatever_takes_it():
            print(text, flush=True)


def report_failure(text: str, *, on_all_ranks: bool) -> None:
    """Print an error; one that all ranks meet alike is printed once.

    The launcher ends every rank as soon as one has failed, so the silent ones give the main rank time to speak.
    """
    if is_main_process() or not on_all_ranks:
        warn(f"error: {text}")
    else:
        time.sleep(SECONDS_FOR_MAIN)


def warn(text: str) -> None:
    """Print a line on standard error, for whatever rank calls."""
    with _whatever_takes_it():
        print(text, file=sys.stderr, flush=True)


def _whatever_takes_it() -> contextlib.AbstractContextManager[None]:
    """For what is only shown: the output may go to a file on a disk that is full, where nobody can be told."""
    return contextlib.suppress(OSError)
