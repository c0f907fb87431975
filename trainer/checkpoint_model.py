"""A checkpoint of a run in, the model that it holds out, in a directory laid out like that of a finished run.

So the best checkpoint, or the last one of a run that was given up, is evaluated, exported and built upon like a model.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from models.directories import to_be_made
from trainer import dist
from trainer.checkpoint_files import ENGINE_FILE, checkpoints_in, rank_file, read_manifest
from trainer.config import load_recipe
from trainer.dist import Ranks
from trainer.ds_config import precision
from trainer.fragments import MASTER, FragmentReader
from trainer.hashes import weights_record
from trainer.resume import CheckpointError, StoredCheckpoints, check_inputs
from trainer.run_dir import RunDir
from trainer.stages import make_stage
from trainer.write_model import write_model

AT_REST = ("model.checkpointing={vision: 0, language: 0}", "model.attention=sdpa", "model.kernels=plain")
"""Nothing is computed with the model: it needs neither the GPU that it was trained on nor a choice of layers."""


def write_checkpoint_model(run_dir: Path, which: str, out_dir: Path | None, ranks: Ranks) -> Path:
    """Write `model` and `recipe.yaml` of a checkpoint; the model has the type that the run trains in.

    The whole model is held in memory. Frozen weights are read from where the recipe says, and must be those of then.

    Args:
        run_dir: of any stage.
        which: `best`, `latest`, or a checkpoint's name such as `step-000500`.
        out_dir: must not exist, or be empty; `RUN_DIR/models/step-000500` where None.
        ranks: this process alone.

    Returns:
        The directory written.

    Raises:
        CheckpointError: no such checkpoint, a damaged one, other frozen weights, or an `out_dir` in use.
        ConfigError, StageError, ModelError: parts that the recipe names and that are no longer there.
    """
    path = find_checkpoint(run_dir, which)
    out_dir = to_be_made(out_dir or run_dir / "models" / path.name, CheckpointError)
    damage = StoredCheckpoints(root=path.parent, ranks=ranks, say=print).damage(path)
    if damage:
        raise CheckpointError(f"{path}: not a whole checkpoint: {damage[0]}; name another one")
    recipe, _ = load_recipe(path / "recipe.yaml", AT_REST)
    config = json.loads((run_dir / "ds_config.json").read_text())
    stage = make_stage(recipe, getattr(torch, precision(config)))
    frozen = weights_record(stage.bases())
    check_inputs(path, frozen, names=frozen)
    fill_from_checkpoint(stage.model, path)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_model(stage.exported(), ranks, out_dir / "model", stage.save_extras)
    shutil.copy(path / "recipe.yaml", out_dir)
    return out_dir


def find_checkpoint(run_dir: Path, which: str) -> Path:
    """The directory of a checkpoint.

    Raises:
        CheckpointError: there is none of this name; the message lists those there are.
    """
    root = RunDir(path=run_dir).checkpoints
    names = [path.name for path in checkpoints_in(root)]
    named = root / which
    name = named.read_text().strip() if which in ("best", "latest") and named.is_file() else which
    if name not in names:
        there = f"one of {', '.join(names)}" if names else "a run that has saved some"
        hint = "; `best` is kept where the recipe has `validation`" if which == "best" else ""
        raise CheckpointError(f"{root}: got no checkpoint {which!r}, expected {there}{hint}")
    return root / name


def fill_from_checkpoint(model: nn.Module, path: Path) -> None:
    """Give a whole model the trained weights of a checkpoint, rounded to its own type.

    Raises:
        WeightsFileError: a parameter is not in the checkpoint as a whole.
    """
    world_size = int(read_manifest(path)["world_size"])
    reader = FragmentReader([path / rank_file(rank) for rank in range(world_size)])
    for name, shape in json.loads((path / ENGINE_FILE).read_text())["shapes"].items():
        parameter = model.get_parameter(name)
        parameter.data.copy_(reader.read(name, MASTER, 0, parameter.numel()).view(shape))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; with a message 2 where the checkpoint cannot be used, 1 where writing fails."""
    parser = argparse.ArgumentParser(prog="python -m trainer.checkpoint_model", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="of any stage, finished or not")
    parser.add_argument("checkpoint", help="best, latest, or a name such as step-000500")
    parser.add_argument("--out", type=Path, help="directory to write (default: RUN_DIR/models/NAME)")
    options = parser.parse_args(arguments)
    ranks = dist.init()
    try:
        written = write_checkpoint_model(options.run_dir, options.checkpoint, options.out, ranks)
    except ValueError as error:
        print(f"checkpoint_model: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"checkpoint_model failed: {error}", file=sys.stderr)
        return 1
    finally:
        dist.teardown()
    print(f"{written / 'model'}: written; to export it: python -m trainer.export {written} OUT_DIR")
    return 0


if __name__ == "__main__":
    sys.exit(main())
