"""`RUN_DIR/checkpoints` in, the newest checkpoint out that agrees with its manifest; and an engine back in its state.

Any number of ranks under any ZeRO stage reads what any other wrote. Nothing is unpickled.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.checkpoint_files import (
    ENGINE_FILE,
    INPUTS_FILE,
    PARTIAL,
    REPLACED,
    STATE_FILE,
    checkpoints_in,
    file_damage,
    rank_file,
    read_manifest,
    step_of,
)
from trainer.dist import Ranks
from trainer.engine import Engine, Snapshot
from trainer.fragments import FragmentReader
from trainer.state import TrainState


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names file, got and expected."""


@dataclass(frozen=True, kw_only=True)
class StoredCheckpoints:
    """The checkpoints a run finds when it starts; methods are called on all ranks.

    Attributes:
        root: `RUN_DIR/checkpoints`.
        ranks: who reads together.
        say: takes a line for the user.
        inputs: what stands for frozen weights and datasets, see `RunDir.check_inputs`.
    """

    root: Path
    ranks: Ranks
    say: Callable[[str], None]
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def find(self) -> Path | None:
        """The newest whole checkpoint; damaged ones are named and passed over. None where there is none.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        candidates = self.ranks.on_main(lambda: _candidates(self.root))
        for path in candidates:
            damage = self.damage(path) or _misnamed(path)
            if not damage:
                return path
            self.say(f"checkpoint {path} is damaged and passed over: {damage[0]}")
        if candidates:
            raise CheckpointError(
                f"{self.root}: all {len(candidates)} checkpoints are damaged; start anew with --resume never"
            )
        return None

    def damage(self, path: Path) -> list[str]:
        """What is wrong with a checkpoint, by file; the ranks share the hashing. Empty for a whole one."""
        try:
            files = dict(read_manifest(path)["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            own = [f"{path}/manifest.txt: {error}"]
        else:
            names = sorted(files)[self.ranks.rank :: self.ranks.world_size]
            own = [problem for name in names if (problem := file_damage(path / name, files[name]))]
        return sorted({problem for problems in self.ranks.gather(own) for problem in problems})

    def load(self, path: Path, engine: Engine) -> TrainState:
        """Restore the engine from a whole checkpoint; random numbers are a function of seed, step and rank.

        Raises:
            CheckpointError: it cannot be loaded, on any rank, or frozen weights or data are others than its own.
        """
        failure = ""
        try:
            engine.restore(self._stored_snapshot(path, engine.precision), self._reader(path))
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            failure = str(error) or repr(error)
        failures = self.ranks.gather(failure)
        if any(failures):
            raise CheckpointError(f"{path}: cannot be loaded: {_by_rank(failures)}")
        engine.refresh()
        return TrainState.from_json(json.loads((path / STATE_FILE).read_text())["state"])

    def _stored_snapshot(self, path: Path, precision: str) -> Snapshot:
        check_inputs(path, self.inputs)
        stored = json.loads((path / ENGINE_FILE).read_text())
        written = stored.get("precision", "")
        if written not in ("", precision):
            self.say(
                f"{path} was written in {written}, and is continued in {precision}: from here on losses are not quite "
                "those of a run that stays in one"
            )
        return Snapshot(tensors={}, shapes=stored["shapes"], counters=stored["counters"], precision=written)

    def _reader(self, path: Path) -> FragmentReader:
        """Reads the file first that holds most of this rank's part: its own, at the same number of ranks."""
        world = int(read_manifest(path)["world_size"])
        if world != self.ranks.world_size:
            self.say(f"{path} was written by {world} ranks, and is continued by {self.ranks.world_size}")
        first = self.ranks.rank * world // self.ranks.world_size
        return FragmentReader([path / rank_file((first + i) % world) for i in range(world)])


def _by_rank(failures: Sequence[str]) -> str:
    """Each failure once, with the ranks that met it: mostly all meet the same."""
    ranks: dict[str, list[int]] = {}
    for rank, text in enumerate(failures):
        if text:
            ranks.setdefault(text, []).append(rank)
    more = {text: f" and {len(own) - 1} more" if len(own) > 1 else "" for text, own in ranks.items()}
    return "; ".join(f"rank {own[0]}{more[text]}: {text}" for text, own in ranks.items())


def check_inputs(path: Path, inputs: Mapping[str, Any], names: Collection[str] | None = None) -> None:
    """Compare frozen weights and datasets with those that a checkpoint was made with.

    Args:
        path: of the checkpoint.
        inputs: as `StoredCheckpoints.inputs`.
        names: compare these alone; all that the checkpoint has where None.

    Raises:
        CheckpointError: one of them is another now.
    """
    for name, part in json.loads((path / INPUTS_FILE).read_text()).items():
        got = inputs.get(name, {"sha256": "none"})
        if (names is None or name in names) and got["sha256"] != part["sha256"]:
            raise CheckpointError(
                f"{name}: trained with {part['from']} of sha256 {part['sha256'][:16]}..., got {got['sha256'][:16]}"
                "...; put the former files back"
            )


def _misnamed(path: Path) -> list[str]:
    """What is wrong with the name of a whole checkpoint: the step it was made after is written when it is reached."""
    step = json.loads((path / STATE_FILE).read_text())["state"]["step"]
    return [] if step == step_of(path) else [f"{path}: got the state after step {step}; give its name back"]


def _candidates(root: Path) -> list[Path]:
    """Checkpoints, newest first; what saves left half done or half removed is cleared away."""
    for leftover in root.glob(f"step-*{PARTIAL}"):
        shutil.rmtree(leftover)
    for replaced in root.glob(f"step-*{REPLACED}"):
        if replaced.with_suffix("").exists():
            shutil.rmtree(replaced)
        else:
            os.replace(replaced, replaced.with_suffix(""))
    return checkpoints_in(root)
