"""Blocks of bytes in, files with size and sha256 out; a checkpoint's directory in, what is damaged in it out."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_shards.atomic import sync_directory

MANIFEST = "manifest.txt"
"""sha256 of the rest on the first line, then JSON: size and sha256 of each file."""
PARTIAL = ".partial"
REPLACED = ".replaced"
"""A whole checkpoint, until another one of its step has its name."""
STATE_FILE = "state.json"
ENGINE_FILE = "engine.json"
INPUTS_FILE = "inputs.json"
FORMAT = 2
_CHUNK = 1 << 24

Blocks = Sequence[bytes | memoryview]


def write_hashed(directory: Path, files: Mapping[str, Blocks]) -> dict[str, Any]:
    """Write files and sync them to disk; hashing and writing leave other threads running.

    Returns:
        size and sha256 by file name, as a manifest holds them.
    """
    records = {}
    for name, blocks in files.items():
        digest = hashlib.sha256()
        with (directory / name).open("wb", buffering=0) as file:
            for block in blocks:
                view = memoryview(block)
                while view:
                    written = file.write(view[:_CHUNK])
                    digest.update(view[:written])
                    view = view[written:]
            os.fsync(file.fileno())
            records[name] = {"bytes": file.tell(), "sha256": digest.hexdigest()}
    return records


def seal(directory: Path, world_size: int, files: Mapping[str, Any]) -> None:
    """Write the manifest over files that are all there, and make their names last."""
    manifest = {"format": FORMAT, "world_size": world_size, "files": dict(files)}
    write_hashed(directory, {MANIFEST: [_manifest_text(manifest).encode()]})
    sync_directory(directory)


def read_manifest(directory: Path) -> dict[str, Any]:
    """What `seal` wrote.

    Raises:
        OSError, ValueError: there is none, or it is damaged or of another format.
    """
    text = (directory / MANIFEST).read_text()
    manifest = json.loads(text.partition("\n")[2])
    if _manifest_text(manifest) != text:
        raise ValueError("the manifest does not agree with its own sha256")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"written in format {manifest.get('format', 1)}, expected {FORMAT}")
    return manifest


def file_damage(path: Path, record: Mapping[str, Any]) -> str:
    """What is wrong with a file of a manifest; empty for nothing."""
    if not path.is_file():
        return f"{path}: missing"
    if path.stat().st_size != record["bytes"]:
        return f"{path}: got {path.stat().st_size} bytes, expected {record['bytes']}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest == record["sha256"]:
        return ""
    return f"{path}: got sha256 {digest[:16]}..., expected {record['sha256'][:16]}..."


def rank_file(rank: int) -> str:
    """Name of a rank's fragments."""
    return f"rank-{rank:05d}.safetensors"


def checkpoints_in(root: Path) -> list[Path]:
    """Checkpoints that were written to their end, newest first; some may have been damaged since. Directories of other
    names, such as copies, are none."""
    found = [path for path in root.glob("step-*") if path.is_dir() and re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step after which a checkpoint was made."""
    return int(path.name.removeprefix("step-"))


def best_of(checkpoints: Sequence[Path]) -> Path | None:
    """The checkpoint with the highest score, the newest among equals; None where none has one."""
    scores = {path: score for path in checkpoints if (score := score_of(path)) is not None}
    return max(scores, key=lambda path: (scores[path], step_of(path)), default=None)


def score_of(path: Path) -> float | None:
    """The score a checkpoint was saved with; None where it was not measured, or cannot be read."""
    try:
        return json.loads((path / STATE_FILE).read_text())["score"]
    except (OSError, ValueError, KeyError):
        return None


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest under its own digest, so that a flipped bit in it is found as well."""
    body = json.dumps(manifest, indent=1, sort_keys=True)
    return f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n"
