"""Steps to be profiled in, `RUN_DIR/profile/steps_10-12.rank_0.json.gz` out: a trace for Perfetto or chrome://tracing."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from torch.profiler import ProfilerActivity, profile

from trainer.dist import num_gpus
from trainer.recipe import ProfileSection

PROFILE_DIR = "profile"


class StepProfile:
    """Profiles the recipe's steps; a context manager, so that a run that stops within them leaves its trace too."""

    def __init__(self, settings: ProfileSection, run_dir: Path, rank: int, say: Callable[[str], None]) -> None:
        """Args: say: takes a line for the user, where the trace finds no room; the run goes on without it."""
        self._say = say
        self._first, self._last = settings.start, settings.start + settings.steps - 1
        self._directory, self._rank = run_dir / PROFILE_DIR, rank
        self._profile: profile | None = None
        self._began = self._done = 0

    def __enter__(self) -> "StepProfile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile is not None and error is None:
            self._write()

    def begin(self, step: int) -> None:
        """Before step `step`, counted from 1."""
        if self._profile is None and self._first <= step <= self._last:
            cuda = [ProfilerActivity.CUDA] if num_gpus() else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *cuda], record_shapes=True)
            self._profile.start()
            self._began = step

    def end(self, step: int) -> Path | None:
        """After it; gives the trace's path once it is written."""
        self._done = step
        return self._write() if self._profile is not None and step >= self._last else None

    def _write(self) -> Path | None:
        assert self._profile is not None
        profiled, self._profile = self._profile, None
        profiled.stop()
        path = self._directory / f"steps_{self._began}-{self._done}.rank_{self._rank}.json.gz"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            profiled.export_chrome_trace(str(path))
        except OSError as error:
            self._say(f"{path}: the profile could not be written: {error}; training goes on")
            return None
        return path
