"""A recipe in; its codebook fitted, or the targets of its datasets written, out. One process does one part."""

from collections.abc import Callable
from dataclasses import replace

import torch

from data_shards.remote import open_dataset
from data_shards.write_targets import TargetsJob, write_targets
from models.distill_heads import Codebook
from trainer.codebook import fit_codebook, given_codebook, read_codebook
from trainer.data import make_data
from trainer.dist import compute_device
from trainer.hashes import files_sha256
from trainer.mixture import cache_settings
from trainer.recipe import Recipe
from trainer.stages.frozen import FrozenPart
from trainer.stages.towers import TowerShape, choose_kernels, frozen_tower, teacher_tower
from trainer.stages.vocabulary import codebook_features, codebook_record
from trainer.targets.record import targets_record
from trainer.targets.teach import teaching

Say = Callable[[str], None]


def make_codebook(recipe: Recipe, say: Say) -> None:
    """Fit the codebook and write it to `distill.codebook`; one that is there already is kept, if it is the same.

    Raises:
        StageError, ModelError: no teacher there, or fewer patches than entries.
        CodebookError: the file holds a codebook fitted otherwise.
        ShardError: the datasets cannot be read.
    """
    path = recipe.distill.codebook
    assert path is not None, "the command checks what it needs"
    tower, teacher = _teacher(recipe)
    record = codebook_record(recipe, teacher, TowerShape.of(tower.blank.model.config).patch_size)
    if path.exists():
        read_codebook(path).check(vars(record))
        say(f"{path}: is there already, fitted in the same way")
        return
    blind = tuple(replace(dataset, targets=None) for dataset in recipe.data.datasets)
    data = make_data(replace(recipe, data=replace(recipe.data, datasets=blind)), None, None)
    features = codebook_features(recipe, tower, data.first_batches(), compute_device())
    path.parent.mkdir(parents=True, exist_ok=True)
    fit_codebook(features, record, path, compute_device())
    say(f"{path}: {record.entries} entries, fitted on {len(features)} patches; sha256 {read_codebook(path).sha256}")


def make_targets(recipe: Recipe, part: tuple[int, int], say: Say) -> None:
    """Write the targets of every dataset that names a directory for them; `part` is one of how many, from 0.

    Raises:
        StageError, ModelError: no teacher there.
        CodebookError: no codebook, or one of another teacher, view or size.
        ShardError: a dataset that cannot be read, or a directory that holds something else.
    """
    codebook = given_codebook(recipe)
    tower, teacher = _teacher(recipe)
    codebook.check({"teacher_sha256": teacher})
    record = targets_record(recipe, codebook, str(tower.dtype).removeprefix("torch."))
    device = compute_device()
    teach = teaching(tower, Codebook(codebook.prototypes).to(device), record, device, tower.dtype)
    cache = cache_settings(recipe.data)
    for dataset in recipe.data.datasets:
        assert dataset.targets is not None, "the command checks what it needs"
        job = TargetsJob(
            index=open_dataset(dataset.path, cache),
            out_dir=dataset.targets,
            record=record,
            layout=recipe.data.view,
            max_tiles=recipe.data.max_tiles,
            part=part,
        )
        done = write_targets(job, teach)
        for reason in done.reasons:
            say(f"no targets: {reason}")
        state = f"{done.missing} shards of other parts are missing yet" if done.missing else "complete"
        say(f"{dataset.targets}: {done.num_frames} frames written, {len(done.reasons)} without targets; {state}")


def _teacher(recipe: Recipe) -> tuple[FrozenPart, str]:
    """The teacher, loaded, and the digest of its weights."""
    blank = teacher_tower(recipe)
    device = compute_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    choose_kernels(recipe, (blank.model,), dtype)
    tower = frozen_tower(blank)
    tower.load(dtype, "replicate", None)
    tower.to(device)
    return tower, files_sha256(blank.weights.files)
