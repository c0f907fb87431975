"""Values and pictures in, TensorBoard files out; a file that the disk takes no more of is left for a new one."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter


class Curves:
    """TensorBoard's files of one start of a run. What cannot be written is missing there, and training goes on."""

    def __init__(self, directory: Path, *, done: int, say: Callable[[str], None]) -> None:
        """Continue the curves of earlier starts after step `done`; TensorBoard drops later points of theirs.

        Args:
            say: takes a line for the user.
        """
        self._directory, self._say = directory, say
        self._writer: SummaryWriter | None = SummaryWriter(str(directory), purge_step=done + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A point on each curve."""

        def add(writer: SummaryWriter) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        self._write(step, add)

    def picture(self, step: int, name: str, image_HWC: np.ndarray, caption: str) -> None:
        """An image, uint8 RGB, with its text."""

        def add(writer: SummaryWriter) -> None:
            writer.add_image(name, image_HWC, step, dataformats="HWC")
            writer.add_text(name, caption, step)

        self._write(step, add)

    def close(self) -> None:
        """Flush and close; later points begin a new file."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.flush()
            writer.close()
        except OSError as error:
            self._say_lost(error)

    def _write(self, step: int, act: Callable[[SummaryWriter], None]) -> None:
        """A writer reports with this call what it could not write of earlier ones: a new file may take this one."""
        try:
            self._to_a_file(step, act)
        except OSError as error:
            self._say_lost(error)
            with contextlib.suppress(OSError):
                self._to_a_file(step, act)

    def _to_a_file(self, step: int, act: Callable[[SummaryWriter], None]) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            writer = SummaryWriter(str(self._directory), purge_step=step)
        act(writer)
        self._writer = writer

    def _say_lost(self, error: OSError) -> None:
        self._say(f"{self._directory}: points of the curves are lost: {error}; training goes on")
