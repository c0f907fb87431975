"""Engine and state in, `RUN_DIR/checkpoints/step-000500` out, whole or not at all.

A checkpoint is copied to host memory, written by a thread of each rank under a temporary name, hashed and synced, and
once all ranks are done renamed; only then does `latest` name it. Training goes on meanwhile, and where writing fails.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_shards.atomic import sync_directory, write_atomically
from models.safetensors_format import file_blocks
from trainer.checkpoint_files import (
    ENGINE_FILE,
    INPUTS_FILE,
    PARTIAL,
    REPLACED,
    STATE_FILE,
    Blocks,
    best_of,
    checkpoints_in,
    rank_file,
    score_of,
    seal,
    step_of,
    write_hashed,
)
from trainer.dist import MainRankError, Ranks
from trainer.engine import Engine, Snapshot
from trainer.state import TrainState

LATEST, BEST = "latest", "best"
_GIB = 2.0**30


class SaveError(MainRankError):  # noqa: N818
    """The checkpoint that a stop needs could not be written; raised on all ranks."""


@dataclass(frozen=True, kw_only=True)
class _Save:
    """A checkpoint on its way to disk: its final name, bytes of all ranks, and what this rank's thread gives."""

    final: Path
    needed: int
    written: Future[dict[str, Any]]


@dataclass(kw_only=True)
class Checkpoints:
    """The checkpoints of one run; methods are called on all ranks.

    Attributes:
        root: `RUN_DIR/checkpoints`.
        ranks: who writes together.
        keep: newest ones kept; the one with the best score is kept as well.
        recipe: text of the recipe, stored beside the state.
        say: takes a line for the user.
        inputs: what stands for frozen weights and datasets, see `RunDir.check_inputs`.
        newest: the one loaded or written last.
    """

    root: Path
    ranks: Ranks
    keep: int
    recipe: str
    say: Callable[[str], None]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    newest: Path | None = None
    _save: _Save | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing; asked for by every rank, and summed, before `finish`."""
        return self._save is not None and not self._save.written.done()

    def save(self, engine: Engine, state: TrainState, score: float | None = None, *, again: bool = False) -> None:
        """Begin to write a checkpoint of this moment, after one that is still under way.

        Where it cannot be written the user is told, now or in `finish`, and the former ones stay. A step is written
        once, and its score has to come with it.

        Args:
            score: by which the best is kept; higher is better. None where it was not measured.
            again: put it in the place of the one that was written after the same step.
        """
        self.finish()
        final = self.root / f"step-{state.step:06d}"
        if final == self.newest and not again:
            return
        snapshot = engine.snapshot(with_replicated=self.ranks.is_main)
        files = self._files(snapshot, state, score)
        needed = int(self.ranks.sum([float(sum(len(b) for blocks in files.values() for b in blocks))])[0])
        problem = self.ranks.on_main(lambda: self._make_room(_partial(final), needed))
        if problem:
            self._failed(final, needed, problem)
            return
        self._save = _Save(
            final=final, needed=needed, written=self._thread.submit(write_hashed, _partial(final), files)
        )

    def is_best(self, step: int, score: float) -> bool:
        """Whether no checkpoint of an earlier step has so high a score; waits for one that is under way.

        True where they cannot be read: what is wrong shows when this one is saved.
        """
        self.finish()
        return self.ranks.on_main(lambda: self._is_best(step, score))

    def finish(self) -> None:
        """Wait until all ranks have written what is under way, and give it its name; no call where nothing is."""
        if self._save is None:
            return
        save, self._save = self._save, None
        outcomes = self.ranks.gather(_outcome(save.written))
        problems = [f"rank {i}: {outcome}" for i, outcome in enumerate(outcomes) if isinstance(outcome, str)]
        files = {name: record for outcome in outcomes if isinstance(outcome, dict) for name, record in outcome.items()}
        problem = "; ".join(problems) or self.ranks.on_main(lambda: self._publish(save.final, files))
        if problem:
            self._failed(save.final, save.needed, problem)
        else:
            self.newest = save.final

    def save_now(self, engine: Engine, state: TrainState) -> Path:
        """Write a checkpoint of this moment and wait for it.

        Raises:
            SaveError: it could not be written.
        """
        self.save(engine, state)
        self.finish()
        final = self.root / f"step-{state.step:06d}"
        if final != self.newest:
            raise SaveError(f"stopped without the checkpoint {final}, which could not be written (see above)")
        return final

    def close(self) -> None:
        """Finish, and wait until what was dropped is off the disk."""
        self.finish()
        self._thread.shutdown()

    def _files(self, snapshot: Snapshot, state: TrainState, score: float | None) -> dict[str, Blocks]:
        """What this rank writes, by file name."""
        files: dict[str, Blocks] = {rank_file(self.ranks.rank): file_blocks(snapshot.tensors)}
        if self.ranks.is_main:
            files[STATE_FILE] = [_json({"state": state.to_json(), "score": score})]
            record = {"shapes": snapshot.shapes, "counters": snapshot.counters, "precision": snapshot.precision}
            files[ENGINE_FILE] = [_json(record)]
            files[INPUTS_FILE] = [_json(self.inputs)]
            files["recipe.yaml"] = [self.recipe.encode()]
        return files

    def _make_room(self, partial: Path, needed: int) -> str:
        try:
            shutil.rmtree(partial, ignore_errors=True)
            self.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.root).free
            if free < needed:
                return "not enough space"
            partial.mkdir()
        except OSError as error:
            return str(error)
        return ""

    def _publish(self, final: Path, files: Mapping[str, Any]) -> str:
        """Rename what all ranks wrote, drop what is beyond `keep`; says what failed."""
        partial = _partial(final)
        try:
            seal(partial, self.ranks.world_size, files)
            self._take_name(partial, final)
            sync_directory(self.root)
        except OSError as error:
            return str(error)
        try:
            self._tidy(step_of(final))
        except OSError as error:
            self.say(f"{self.root}: older checkpoints could not be tidied up: {error}")
        return ""

    def _take_name(self, partial: Path, final: Path) -> None:
        """At each moment one of both has a name by which a start finds it: see `StoredCheckpoints.find`."""
        replaced = final.with_name(final.name + REPLACED)
        if not final.exists():
            os.replace(partial, final)
            return
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(final, replaced)
        try:
            os.replace(partial, final)
        except OSError:
            os.replace(replaced, final)
            raise
        self._drop(replaced)

    def _past(self, step: int) -> list[Path]:
        return [path for path in checkpoints_in(self.root) if step_of(path) <= step]

    def _is_best(self, step: int, score: float) -> bool:
        try:
            return all(score > other for path in self._past(step - 1) if (other := score_of(path)) is not None)
        except OSError:
            return True

    def _tidy(self, step: int) -> None:
        """Name the newest and the best, drop the others; newer ones belong to a past that this run went back behind."""
        past = self._past(step)
        best = best_of(past)
        for path in checkpoints_in(self.root):
            if path != best and path not in past[: self.keep]:
                self._drop(path)
        for name, named in ((LATEST, past[0]), (BEST, best)):
            if named is not None:
                write_atomically(self.root / name, f"{named.name}\n".encode())

    def _drop(self, path: Path) -> None:
        """Take a checkpoint away at once, and its bytes in the thread."""
        gone = path.with_name(f"{path.name}.dropped{PARTIAL}")
        shutil.rmtree(gone, ignore_errors=True)  # what a start that was killed left of it
        os.replace(path, gone)
        self._thread.submit(shutil.rmtree, gone, ignore_errors=True)

    def _failed(self, final: Path, needed: int, problem: str) -> None:
        def clean() -> str:
            shutil.rmtree(_partial(final), ignore_errors=True)
            whole = checkpoints_in(self.root)
            return f"{_free(self.root)}; the newest checkpoint is {whole[0] if whole else 'none'}"

        rest = self.ranks.on_main(clean)
        self.say(
            f"checkpoint {final} was not written: {problem}; it needs {needed / _GIB:.3f} GiB, {rest}; training goes "
            "on, the next checkpoint is tried when it is due"
        )


def _outcome(written: Future[dict[str, Any]]) -> dict[str, Any] | str:
    try:
        return written.result()
    except OSError as error:
        return str(error)


def _partial(final: Path) -> Path:
    return final.with_name(final.name + PARTIAL)


def _json(record: Any) -> bytes:
    return json.dumps(record, indent=1).encode()


def _free(root: Path) -> str:
    try:
        return f"{shutil.disk_usage(root).free / _GIB:.3f} GiB are free in {root}"
    except OSError as error:
        return f"{root} cannot be read ({error})"
