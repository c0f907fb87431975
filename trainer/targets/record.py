"""A recipe and its codebook in; what teacher targets have to be made with, and those of a dataset, checked, out."""

from dataclasses import asdict

from data_shards.index import DatasetIndex
from data_shards.remote import CacheSettings
from data_shards.target_source import TargetSource, open_targets
from data_shards.teacher_targets import TargetsRecord
from trainer.codebook import StoredCodebook, given_codebook
from trainer.hashes import view_sha256
from trainer.recipe import DatasetSection, Recipe

_FREE = ("layers", "dtype")
"""Fields that a reader need not have alike."""


class TargetsError(ValueError):
    """Targets made otherwise than the recipe needs; the message names both, and the fix."""


def needs_features(recipe: Recipe) -> bool:
    """Whether hidden states of the teacher are wanted beside its logits."""
    return recipe.distill.features > 0 or recipe.distill.answer_logits > 0


def targets_record(recipe: Recipe, codebook: StoredCodebook, dtype: str) -> TargetsRecord:
    """What targets are made with under a recipe."""
    distill = recipe.distill
    side = codebook.record.tile_size // codebook.record.patch_size
    last_k = distill.last_k if distill.features > 0 else 1
    return TargetsRecord(
        teacher_sha256=codebook.record.teacher_sha256,
        codebook_sha256=codebook.sha256,
        preprocessing_sha256=view_sha256(recipe.data.view),
        temperature=distill.temperature,
        codebook_temperature=distill.codebook_temperature,
        entries=codebook.record.entries,
        top_k=distill.top_k,
        layers=last_k if needs_features(recipe) else 0,
        patches=side**2,
        width=codebook.width,
        dtype=dtype,
    )


def cached_targets(
    recipe: Recipe, dataset: DatasetSection, index: DatasetIndex, cache: CacheSettings
) -> TargetSource | None:
    """The targets of a dataset; None where the recipe names none.

    Raises:
        ShardError: as `open_targets`.
        TargetsError: of another teacher, codebook, preprocessing, temperature or size than the recipe's.
        CodebookError: the recipe's codebook cannot be used.
    """
    if dataset.targets is None:
        return None
    source = open_targets(dataset.targets, cache, index, features=needs_features(recipe))
    expected = targets_record(recipe, given_codebook(recipe), source.record.dtype)
    got = asdict(source.record)
    wrong = {name: value for name, value in asdict(expected).items() if name not in _FREE and got[name] != value}
    if needs_features(recipe) and source.record.layers < expected.layers:
        wrong["layers"] = expected.layers
    if wrong:
        listed = "; ".join(f"{name}: got {got[name]}, expected {value}" for name, value in wrong.items())
        raise TargetsError(
            f"data.datasets: {dataset.name}: {dataset.targets} was made otherwise than recipe and codebook "
            f"{recipe.distill.codebook} say: {listed}; correct the recipe, or write the targets again to another "
            "directory with `python -m data_shards teacher-targets`"
        )
    return source
