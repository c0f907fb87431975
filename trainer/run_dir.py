"""A run directory: what stands in it, whether it may be continued, and how it is begun, moved aside and finished."""

import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from data_shards.atomic import write_atomically, write_json
from trainer.dist import num_gpus
from trainer.state import WINDOW, TrainState

MAY_CHANGE = (
    "run_dir",
    "log_every",
    "image_log_every",
    "checkpoint_every",
    "keep",
    "sample_log",
    "hang_after",
    "max_skipped",
    "device_peak_tflops",
    "profile.start",
    "profile.steps",
    "validation.every",
    "validation.max_packs",
    "validation.answers",
    "validation.max_new_tokens",
    "data.workers",
    "data.prefetch",
    "data.max_bad_fraction",
    "data.cache_dir",
    "data.cache_gib",
    "distill.teacher_placement",
    "model.checkpointing.vision",
    "model.checkpointing.language",
    "model.checkpointing.gpu_gib",
)
"""Recipe fields that may differ when a run is continued: they do not change what is learnt."""


INPUTS_FILE = "inputs.json"
ENVIRONMENT_FILE = "environment.json"
MICRO_BATCHES = "batch.micro_batches"


class RunDirError(ValueError):
    """A run directory that cannot be continued; the message names it, got, expected and the fix."""


@dataclass(frozen=True, kw_only=True)
class RunDir:
    """Paths of one run; methods write, and are called on the main rank only."""

    path: Path

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """See `trainer.checkpoint`."""
        return self.path / "checkpoints"

    def summary(self) -> dict[str, Any] | None:
        """The summary of a run that reached its end."""
        file = self.path / "summary.json"
        return json.loads(file.read_text()) if file.is_file() and self.model.is_dir() else None

    def recipe_changes(self, recipe_text: str, world_size: int) -> list[str]:
        """Fields that change what is learnt and differ from the recipe this directory was begun with, with both values;
        a step may be divided anew among other ranks."""
        file = self.path / "recipe.yaml"
        if not file.is_file():
            return []
        old, new = _flat(yaml.safe_load(file.read_text())), _flat(yaml.safe_load(recipe_text))
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name) and name not in MAY_CHANGE]
        packs_before = old.get(MICRO_BATCHES, 1) * self._world_size(world_size)
        if packs_before == new.get(MICRO_BATCHES, 1) * world_size:
            changed = [name for name in changed if name != MICRO_BATCHES]
        return [f"  {name}: begun with {old.get(name)}, got {new.get(name)}" for name in changed]

    def check_recipe(self, recipe_text: str, world_size: int) -> None:
        """Refuse to go on with another recipe.

        Raises:
            RunDirError: see `recipe_changes`.
        """
        lines = "\n".join(self.recipe_changes(recipe_text, world_size))
        if lines:
            raise RunDirError(
                f"{self.path}: was begun with another recipe:\n{lines}\n"
                "give the old values, another run_dir, or --resume never (which moves this directory aside)"
            )

    def _world_size(self, default: int) -> int:
        """Of the last start."""
        file = self.path / ENVIRONMENT_FILE
        return json.loads(file.read_text())["world_size"] if file.is_file() else default

    def input_changes(self, inputs: Mapping[str, Any]) -> list[str]:
        """Frozen weights and datasets that are others than this directory was begun with; `inputs` as for
        `check_inputs`."""
        file = self.path / INPUTS_FILE
        if not file.is_file():
            return []
        begun = json.loads(file.read_text())
        return [
            f"  {field}: begun with {begun[field]['from']} of sha256 {begun[field]['sha256'][:16]}..., got "
            f"{own['from']} of {own['sha256'][:16]}..."
            for field, own in inputs.items()
            if field in begun and begun[field]["sha256"] != own["sha256"]
        ]

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Refuse to go on with other frozen weights or data.

        Args:
            inputs: where each lies and its sha256, by recipe field: of `hashes.weights_record` and `Mixture.record`.

        Raises:
            RunDirError: see `input_changes`.
        """
        lines = "\n".join(self.input_changes(inputs))
        if lines:
            raise RunDirError(
                f"{self.path}: was begun with other frozen weights or data:\n{lines}\n"
                "put the former files back, or give another run_dir, or --resume never (which moves this one aside)"
            )

    def move_aside(self) -> Path | None:
        """Rename the directory out of the way; None where there is nothing."""
        if not self.path.exists():
            return None
        aside = self._aside()
        os.replace(self.path, aside)
        return aside

    def move_parts_aside(self, names: Sequence[str]) -> Path:
        """Move what there is of these out of the way, one after the other; where to.

        Raises:
            RunDirError: they cannot be moved.
        """
        aside = self._aside()
        try:
            aside.mkdir()
            for name in names:
                if (self.path / name).exists():
                    os.replace(self.path / name, aside / name)
        except OSError as error:
            raise RunDirError(
                f"run_dir: {self.path} was begun otherwise, and what is left of that cannot be moved to {aside} "
                f"({error.strerror}); give another run_dir"
            ) from error
        return aside

    def _aside(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        return aside

    def make(self) -> None:
        """Make the directory where there is none.

        Raises:
            RunDirError: it cannot be made.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirError(
                f"run_dir: got {self.path}, where no directory can be made ({error.strerror}); give another one"
            ) from error

    def begin(
        self, recipe_text: str, ds_config: Mapping[str, Any], world_size: int, inputs: Mapping[str, Any] | None = None
    ) -> None:
        """Write what the run is made of; `inputs` as for `check_inputs`.

        Raises:
            RunDirError: the directory cannot be made or written.
        """
        self.make()
        try:
            write_atomically(self.path / "recipe.yaml", recipe_text.encode())
            write_json(self.path / "ds_config.json", ds_config)
            write_json(self.path / ENVIRONMENT_FILE, _environment(world_size))
            write_json(self.path / INPUTS_FILE, inputs or {})
        except OSError as error:
            raise RunDirError(
                f"run_dir: got {self.path}, which cannot be written ({error.strerror}); make room there, or give "
                "another one"
            ) from error

    def write_summary(self, stage: str, state: TrainState) -> dict[str, Any]:
        """`loss_first` and `loss_last` are means over the first and the last ten steps."""
        summary = {
            "stage": stage,
            "steps": state.step,
            "seconds": round(state.seconds, 2),
            "loss_first": sum(state.first) / max(len(state.first), 1),
            "loss_last": statistics.fmean(state.last[-WINDOW:] or [0.0]),
            "samples_per_s": round(state.samples / max(state.seconds, 1e-9), 3),
        }
        write_json(self.path / "summary.json", summary)
        return summary


def _environment(world_size: int) -> dict[str, Any]:
    packages = ("torch", "deepspeed", "transformers", "safetensors", "numpy")
    return {
        "command": sys.argv,
        "world_size": world_size,
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if num_gpus() else "cpu",
    }


def _flat(tree: Any, place: str = "") -> dict[str, Any]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        return {place: tree}
    return {n: v for name, item in items for n, v in _flat(item, f"{place}.{name}".lstrip(".")).items()}
