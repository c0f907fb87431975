"""Weights, files and settings in, sha256 digests out: by these, caches and runs know what they were made with."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_shards.view_layout import ViewLayout
from models.loading import Files
from models.vision import IMAGE_MEAN, IMAGE_STD

_CHUNK = 1 << 24


def files_sha256(files: Sequence[Path]) -> str:
    """One digest over the names and bytes of files, in their order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def weights_record(weights: Mapping[str, Files]) -> dict[str, Any]:
    """Names and one sha256 of each frozen part's files, over names and bytes; parts made from presets have none.

    Args:
        weights: by recipe field, as `Stage.bases` gives them.
    """
    record = {}
    for field, part in weights.items():
        if part.files:
            names = [path.name for path in part.files]
            record[field] = {
                "from": str(part.files[0].parent),
                "files": names,
                "sha256": files_sha256(part.files),
            }
    return record


def view_sha256(view: ViewLayout) -> str:
    """A digest of everything between JPEGs and pixels: the view settings and the normalisation."""
    settings = {"view": dataclasses.asdict(view), "mean": IMAGE_MEAN, "std": IMAGE_STD}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
