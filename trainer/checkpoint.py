"""Engine and state in, `RUN_DIR/checkpoints/step-000500` out, whole or not at all; and the newest whole one back.

A checkpoint is written under a temporary name, hashed, synced and renamed; only then does `latest` name it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_shards.atomic import sync_directory
from trainer.dist import Ranks
from trainer.engine import Engine
from trainer.state import TrainState

MANIFEST = "manifest.txt"
"""sha256 of the rest on the first line, then JSON: size and sha256 of each file."""
LATEST = "latest"
_PARTIAL = ".partial"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names file, got and expected."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        root: `RUN_DIR/checkpoints`.
        ranks: who writes together.
        keep: newest ones kept.
        recipe: text of the recipe, stored beside the state.
        say: takes a line for the user.
    """

    root: Path
    ranks: Ranks
    keep: int
    recipe: str
    say: Callable[[str], None]

    def save(self, engine: Engine, state: TrainState) -> Path:
        """Write a checkpoint of this moment, and drop those beyond `keep`."""
        final = self.root / f"step-{state.step:06d}"
        partial = final.with_name(final.name + _PARTIAL)
        self.ranks.on_main(lambda: _fresh_directory(partial))
        engine.save_state(partial / "engine")
        self.ranks.on_main(lambda: self._write_state(partial, state))
        files = self._hash_files(partial)
        self.ranks.on_main(lambda: self._finish(partial, final, files))
        return final

    def find(self) -> Path | None:
        """The newest whole checkpoint; damaged ones are named and passed over. None where there is none.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        candidates = self.ranks.on_main(self._candidates)
        for path in candidates:
            damage = self.damage(path)
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
            manifest = _parse_manifest((path / MANIFEST).read_text())
            world, files = int(manifest["world_size"]), dict(manifest["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [f"{path / MANIFEST}: {error}"]
        if world != self.ranks.world_size:
            raise CheckpointError(
                f"{path}: written by {world} ranks, got {self.ranks.world_size}; start the same number of ranks"
            )
        names = sorted(files)[self.ranks.rank :: self.ranks.world_size]
        own = [problem for name in names if (problem := _check_file(path / name, files[name]))]
        return sorted(problem for problems in self.ranks.gather(own) for problem in problems)

    def load(self, path: Path, engine: Engine) -> TrainState:
        """Restore the engine from a whole checkpoint; random numbers are a function of seed, step and rank.

        Raises:
            CheckpointError: it cannot be loaded, on any rank.
        """
        failure = ""
        try:
            engine.load_state(path / "engine")
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            failure = f"rank {self.ranks.rank}: {error}"
        failures = [text for text in self.ranks.gather(failure) if text]
        if failures:
            raise CheckpointError(f"{path}: cannot be loaded: {'; '.join(failures)}")
        return TrainState.from_json(json.loads((path / "state.json").read_text()))

    def _candidates(self) -> list[Path]:
        found = sorted((p for p in self.root.glob("step-*") if p.is_dir() and p.suffix != _PARTIAL), reverse=True)
        for leftover in self.root.glob(f"step-*{_PARTIAL}"):
            shutil.rmtree(leftover)
        return found

    def _write_state(self, partial: Path, state: TrainState) -> None:
        (partial / "state.json").write_text(json.dumps(state.to_json(), indent=1))
        (partial / "recipe.yaml").write_text(self.recipe)

    def _hash_files(self, partial: Path) -> dict[str, Any]:
        """Size and digest of every file, synced to disk; each rank takes its share."""
        self.ranks.barrier()
        names = sorted(str(p.relative_to(partial)) for p in partial.rglob("*") if p.is_file())
        own = {name: _seal(partial / name) for name in names[self.ranks.rank :: self.ranks.world_size]}
        return {name: record for part in self.ranks.gather(own) for name, record in part.items()}

    def _finish(self, partial: Path, final: Path, files: dict[str, Any]) -> None:
        manifest = {"version": 1, "world_size": self.ranks.world_size, "files": files}
        _write_synced(partial / MANIFEST, _manifest_text(manifest))
        for directory in (partial, *(p for p in partial.rglob("*") if p.is_dir())):
            sync_directory(directory)
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        sync_directory(self.root)
        _write_synced(self.root / (LATEST + _PARTIAL), final.name + "\n")
        os.replace(self.root / (LATEST + _PARTIAL), self.root / LATEST)
        sync_directory(self.root)
        for old in self._candidates()[self.keep :]:
            shutil.rmtree(old)


def _fresh_directory(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)


def _manifest_text(manifest: dict[str, Any]) -> str:
    """The manifest under its own digest, so that a flipped bit in it is found as well."""
    body = json.dumps(manifest, indent=1, sort_keys=True)
    return f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n"


def _parse_manifest(text: str) -> dict[str, Any]:
    manifest = json.loads(text.partition("\n")[2])
    if _manifest_text(manifest) != text:
        raise ValueError("the manifest does not agree with its own sha256")
    return manifest


def _check_file(path: Path, record: dict[str, Any]) -> str:
    if not path.is_file():
        return f"{path}: missing"
    if path.stat().st_size != record["bytes"]:
        return f"{path}: got {path.stat().st_size} bytes, expected {record['bytes']}"
    digest = _digest(path)
    return (
        ""
        if digest == record["sha256"]
        else f"{path}: got sha256 {digest[:16]}..., expected {record['sha256'][:16]}..."
    )


def _seal(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
