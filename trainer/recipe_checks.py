"""A typed recipe in; what is wrong with it that its types do not say, one line a problem, out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from models.projector import PROJECTORS
from trainer.dist import TIMEOUT
from trainer.recipe import DataSection, DatasetSection, Recipe

MOST_ENTRIES = 1 << 16
"""Cached targets number the entries of a codebook in 16 bits."""

MOST_SEED = (1 << 63) - 1

_CURVES = ("total", "features", "patch_logits", "answer_logits")
"""Names under `loss/` that no dataset may take."""

_NEEDED = {"distill": (), "align": ("vision", "language", "tokenizer"), "finetune": ("vlm",)}
"""Fields of `model` that a stage cannot do without."""


def recipe_problems(recipe: Recipe) -> list[str]:
    """Every problem, each naming the field, got, expected and the fix."""
    return [*_ranges(recipe), *_check_mixture(recipe.data), *_check_stage(recipe)]


def _ranges(recipe: Recipe) -> list[str]:
    optim = recipe.optim
    unit = {
        "data.max_bad_fraction": recipe.data.max_bad_fraction,
        "optim.min_lr": optim.min_lr,
        "optim.layer_decay": optim.layer_decay,
    }
    below_one = {"optim.betas.0": optim.betas[0], "optim.betas.1": optim.betas[1]}
    problems = [
        *_outside(_positive(recipe), lambda value: value > 0, "more than 0"),
        *_outside(_not_negative(recipe), lambda value: value >= 0, "0 or more"),
        *_outside(unit, lambda value: 0 <= value <= 1, "0 to 1"),
        *_outside(below_one, lambda value: 0 <= value < 1, "0 up to (not including) 1"),
    ]
    if recipe.seed > MOST_SEED:
        problems.append(f"seed: got {recipe.seed}, expected at most {MOST_SEED}")
    return problems


def _outside(values: Mapping[str, float], fits: Callable[[float], bool], expected: str) -> list[str]:
    return [f"{name}: got {value}, expected {expected}" for name, value in values.items() if not fits(value)]


def _positive(recipe: Recipe) -> dict[str, float]:
    data, distill = recipe.data, recipe.distill
    return {
        "steps": recipe.steps,
        "keep": recipe.keep,
        "log_every": recipe.log_every,
        "coordinate_weight": recipe.coordinate_weight,
        "max_skipped": recipe.max_skipped,
        "batch.micro_batches": recipe.batch.micro_batches,
        "data.max_tokens": data.max_tokens,
        "data.max_tiles": data.max_tiles,
        "data.questions_per_visit": data.questions_per_visit,
        "data.prefetch": data.prefetch,
        **{f"data.datasets.{i}.weight": d.weight for i, d in enumerate(data.datasets) if d.weight is not None},
        **{f"data.datasets.{i}.fraction": d.fraction for i, d in enumerate(data.datasets) if d.fraction is not None},
        "distill.last_k": distill.last_k,
        "distill.temperature": distill.temperature,
        "distill.codebook_size": distill.codebook_size,
        "distill.codebook_temperature": distill.codebook_temperature,
        "distill.codebook_tiles": distill.codebook_tiles,
        "distill.codebook_iterations": distill.codebook_iterations,
        "optim.eps": recipe.optim.eps,
        "optim.layer_decay": recipe.optim.layer_decay,
        "profile.start": recipe.profile.start,
        "validation.max_new_tokens": recipe.validation.max_new_tokens,
    }


def _not_negative(recipe: Recipe) -> dict[str, float]:
    data, optim, distill, validation = recipe.data, recipe.optim, recipe.distill, recipe.validation
    counts = asdict(recipe.model.checkpointing)
    return {
        "seed": recipe.seed,
        "image_log_every": recipe.image_log_every,
        "checkpoint_every": recipe.checkpoint_every,
        "hang_after": recipe.hang_after,
        "device_peak_tflops": recipe.device_peak_tflops,
        "data.workers": data.workers,
        "data.cache_gib": data.cache_gib,
        "optim.warmup": optim.warmup,
        "optim.grad_clip": optim.grad_clip,
        "distill.features": distill.features,
        "distill.patch_logits": distill.patch_logits,
        "distill.answer_logits": distill.answer_logits,
        "distill.top_k": distill.top_k,
        "model.student_layers": recipe.model.student_layers,
        **{f"optim.lr.{name}": rate for name, rate in asdict(optim.lr).items()},
        **{f"optim.weight_decay.{name}": decay for name, decay in asdict(optim.weight_decay).items()},
        **{f"model.checkpointing.{name}": n for name, n in counts.items() if n not in ("all", "auto")},
        "profile.steps": recipe.profile.steps,
        "validation.every": validation.every,
        "validation.max_packs": validation.max_packs,
        "validation.answers": validation.answers,
    }


def _check_mixture(data: DataSection) -> list[str]:
    problems = []
    if not data.datasets:
        problems.append("data.datasets: got none, expected at least one with a path")
    problems += _check_names("data", data.datasets)
    with_fraction = [i for i, dataset in enumerate(data.datasets) if dataset.fraction is not None]
    if 0 < len(with_fraction) < len(data.datasets):
        problems.append(
            f"data.datasets: got `fraction` for {len(with_fraction)} of {len(data.datasets)} datasets, expected it for "
            "all or none; give the others one too, or a `weight` to each"
        )
    problems += [
        f"data.datasets.{i}: got both `weight` and `fraction`, expected one of them; drop one"
        for i in with_fraction
        if data.datasets[i].weight is not None
    ]
    return problems


def _check_names(section: str, datasets: Sequence[DatasetSection]) -> list[str]:
    names = [dataset.name or dataset.path.name for dataset in datasets]
    twice = sorted({name for name in names if names.count(name) > 1})
    taken = [name for name in names if name in _CURVES]
    return [
        *(f"{section}.datasets: the name {name!r} occurs twice; give one of them another `name`" for name in twice),
        *(
            f"{section}.datasets: {name!r} is the name of a curve, loss/{name}; give it another `name`"
            for name in taken
        ),
    ]


def _check_stage(recipe: Recipe) -> list[str]:
    problems = []
    for name in _NEEDED[recipe.stage]:
        if not getattr(recipe.model, name):
            problems.append(f"model.{name}: missing, stage {recipe.stage!r} needs it")
    if recipe.model.projector not in PROJECTORS:
        problems.append(f"model.projector: got {recipe.model.projector!r}, expected one of {', '.join(PROJECTORS)}")
    if recipe.model.drop_path and not 0 <= recipe.model.drop_path < 1:
        problems.append(f"model.drop_path: got {recipe.model.drop_path}, expected 0 up to (not including) 1")
    elif recipe.model.drop_path and recipe.stage == "align":
        problems.append(
            f"model.drop_path: got {recipe.model.drop_path}, expected 0 in stage 'align', whose vision tower is frozen"
        )
    if recipe.stage == "distill":
        problems += _check_distillation(recipe)
    elif any(dataset.targets for dataset in recipe.data.datasets):
        problems.append(f"data.datasets: `targets` are for stage 'distill', got stage {recipe.stage!r}; leave them out")
    problems += _check_watching(recipe)
    if recipe.optim.warmup >= 1 and recipe.optim.warmup > recipe.steps:
        problems.append(f"optim.warmup: got {recipe.optim.warmup:g} steps, expected at most steps = {recipe.steps}")
    return problems


def _check_distillation(recipe: Recipe) -> list[str]:
    model, terms = recipe.model, recipe.distill
    problems = []
    if not (terms.features or terms.patch_logits or terms.answer_logits):
        problems.append("distill: all terms have weight 0; give `features`, `patch_logits` or `answer_logits` a weight")
    cached = [dataset.targets is not None for dataset in recipe.data.datasets]
    if not (model.teacher or model.teacher_vlm) and (not all(cached) or model.student_layers):
        problems.append("model.teacher: missing, stage 'distill' needs it")
    if terms.answer_logits and not model.teacher_vlm:
        problems.append(
            "model.teacher_vlm: missing, distill.answer_logits needs it; give the directory of a whole model with the "
            "teacher's tower"
        )
    if not (model.student or model.student_layers):
        problems.append("model.student: missing, stage 'distill' needs it, or model.student_layers")
    if model.student and model.student_layers:
        problems.append(
            f"model.student_layers: got {model.student_layers} and the student {model.student!r}, expected one of the "
            "two: layers of the teacher make a student of the teacher's width; leave model.student out"
        )
    return problems + (_check_targets(recipe, cached) if any(cached) else [])


def _check_targets(recipe: Recipe, cached: Sequence[bool]) -> list[str]:
    distill = recipe.distill
    problems = []
    if not all(cached):
        problems.append("data.datasets: some have `targets`, expected all or none; write those of the others")
    if distill.codebook is None:
        problems.append("distill.codebook: missing, cached targets are of a codebook; name its file")
    if distill.top_k >= distill.codebook_size:
        problems.append(
            f"distill.top_k: got {distill.top_k}, expected less than the {distill.codebook_size} entries of the "
            "codebook; 0 keeps all of them"
        )
    if distill.codebook_size > MOST_ENTRIES:
        problems.append(
            f"distill.codebook_size: got {distill.codebook_size}, expected at most {MOST_ENTRIES} with cached targets, "
            "which number the entries in 16 bits"
        )
    return problems


def _check_watching(recipe: Recipe) -> list[str]:
    validation = recipe.validation
    problems = _check_names("validation", validation.datasets)
    if recipe.profile.steps and recipe.profile.start > recipe.steps:
        problems.append(f"profile.start: got {recipe.profile.start}, expected at most steps = {recipe.steps}")
    if recipe.hang_after >= TIMEOUT.total_seconds():
        problems.append(
            f"hang_after: got {recipe.hang_after:g} s, expected less than the time-out of collectives, "
            f"{TIMEOUT.total_seconds():g} s"
        )
    is_cached = any(dataset.targets for dataset in recipe.data.datasets)
    if any((dataset.targets is not None) != is_cached for dataset in validation.datasets):
        problems.append("validation.datasets: `targets` are for all datasets or none, as in data.datasets")
    if not validation.datasets and (validation.every or validation.answers):
        problems.append(
            "validation.datasets: got none, expected held-out shards where validation.every or .answers is set"
        )
    if validation.answers and recipe.stage == "distill":
        problems.append("validation.answers: got frames to answer, expected 0: stage 'distill' has no language model")
    if validation.best != "loss" and not validation.answers:
        problems.append(
            f"validation.best: got {validation.best!r} without answers, expected loss; or set validation.answers to a "
            "number of frames"
        )
    return problems
