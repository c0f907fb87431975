"""What the command line says in; the recipe and packs that a benchmark runs, over models with random weights, out."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from data_shards.chat import IMAGE_TOKEN
from data_shards.view_layout import ViewLayout
from models.activations import num_patches
from models.presets import image_tokens_per_tile, vision_config
from trainer.bench.packs import DATASET, PackSettings
from trainer.checkpointing_section import CheckpointingSection
from trainer.codebook import CodebookRecord, fit_codebook
from trainer.hashes import view_sha256
from trainer.recipe import (
    BatchSection,
    DataSection,
    DatasetSection,
    DistillSection,
    ModelSection,
    OptimSection,
    Recipe,
)
from trainer.stages.base import Stage
from trainer.stages.towers import TowerShape

_NO_WORDS = 4
"""Any id: jobs on images have no words."""

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "models" / "tiny" / "language"
"""Only its special tokens matter: texts are random ids."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Names of model presets, the side of their tiles in pixels, and entries of the teacher's codebook."""

    teacher: str
    student: str
    language: str
    vlm: str
    tile_size: int
    codebook_size: int


PRESETS = {
    "drivlm-2b": Preset(
        teacher="internvit-6b",
        student="internvit-300m",
        language="internlm2-1.8b",
        vlm="drivlm-2b",
        tile_size=448,
        codebook_size=DistillSection().codebook_size,
    ),
    "tiny": Preset(
        teacher="tiny-teacher",
        student="tiny-student",
        language="tiny-lm",
        vlm="tiny-vlm",
        tile_size=112,
        codebook_size=64,
    ),
}


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """One measurement.

    Attributes:
        preset: of `PRESETS`.
        tokens, tiles: limits of a pack.
        steps, warmup: measured, and run before.
        micro_batches: packs of each rank in a step.
        questions_per_visit: 1 is classic packing.
        padded: conversations are filled up to the longest.
        stock: transformers' own model on padded batches, see `trainer.bench.stock`; with one question a visit.
        general: general samples for each driving question; for stages on questions.
        cached: distill from cached targets, with no teacher in memory.
        ds_config: DeepSpeed JSON.
        attention, kernels, adamw: as `model.attention`, `model.kernels` and `optim.kernel` of a recipe.
        peak_tflops: of the device, dense, in the precision of training; None where it is in the table.
        checkpointing: layers that run again; None for as few as make the estimate fit `gpu_gib`.
        gpu_gib: memory of a card; None for that of the GPU that is there, or no limit without one.
        data: shards to be read as training reads them; None for random packs in memory.
        workers: loader processes of each rank.
    """

    preset: str
    stage: Literal["distill", "align", "finetune"]
    ds_config: Path
    tokens: int = 16384
    tiles: int = 48
    steps: int = 20
    warmup: int = 3
    micro_batches: int = 1
    questions_per_visit: int = 32
    padded: bool = False
    stock: bool = False
    general: float = 0.0
    cached: bool = False
    attention: Literal["auto", "flash", "varlen", "flex", "sdpa"] = "auto"
    kernels: Literal["auto", "liger", "compile", "plain"] = "auto"
    adamw: Literal["auto", "fused", "plain", "deepspeed"] = "auto"
    checkpointing: CheckpointingSection | None = None
    peak_tflops: float | None = None
    gpu_gib: float | None = None
    data: Path | None = None
    workers: int = 2


def bench_recipe(settings: BenchSettings, run_dir: Path) -> Recipe:
    """The recipe of a benchmark: that of a stage, with presets in the place of directories."""
    targets = run_dir / "targets" if settings.cached else None
    return Recipe(
        stage=settings.stage,
        run_dir=run_dir,
        steps=settings.warmup + settings.steps,
        model=_models(settings),
        data=DataSection(
            datasets=(DatasetSection(path=settings.data or Path(DATASET), name=DATASET, targets=targets),),
            view=ViewLayout(tile_size=PRESETS[settings.preset].tile_size, mode="canvas"),
            workers=settings.workers,
            max_tokens=settings.tokens,
            max_tiles=settings.tiles,
            questions_per_visit=settings.questions_per_visit,
        ),
        batch=BatchSection(micro_batches=settings.micro_batches),
        optim=OptimSection(warmup=0.0, schedule="constant", kernel=settings.adamw),
        distill=_distillation(settings, run_dir),
        log_every=1,
    )


def _distillation(settings: BenchSettings, run_dir: Path) -> DistillSection:
    """A codebook that is soon fitted; targets are cached without features, as is usual."""
    entries = PRESETS[settings.preset].codebook_size
    online = DistillSection(codebook_tiles=settings.tiles, codebook_iterations=1, codebook_size=entries, top_k=32)
    return replace(online, codebook=run_dir / "codebook.safetensors", features=0.0) if settings.cached else online


def tokens_per_tile(preset: str) -> int:
    """Image tokens of a tile of a preset's whole model."""
    return image_tokens_per_tile(vision_config(PRESETS[preset].student))


def write_codebook(recipe: Recipe, preset: str) -> None:
    """The codebook that cached targets are said to be of, random."""
    assert recipe.distill.codebook is not None
    teacher = vision_config(PRESETS[preset].teacher)
    record = CodebookRecord(
        teacher_sha256="",
        preprocessing_sha256=view_sha256(recipe.data.view),
        tile_size=recipe.data.view.tile_size,
        patch_size=TowerShape.of(teacher).patch_size,
        entries=recipe.distill.codebook_size,
        iterations=0,
        seed=0,
        tiles=0,
    )
    features = torch.randn(2 * record.entries, teacher.hidden_size, generator=torch.Generator().manual_seed(0))
    fit_codebook(features, record, recipe.distill.codebook)


def _models(settings: BenchSettings) -> ModelSection:
    preset = PRESETS[settings.preset]
    checkpointing = settings.checkpointing or CheckpointingSection()
    common = ModelSection(attention=settings.attention, kernels=settings.kernels, checkpointing=checkpointing)
    if settings.stage == "distill":
        return replace(common, teacher=None if settings.cached else preset.teacher, student=preset.student)
    if settings.stage == "align":
        return replace(common, vision=preset.student, language=preset.language, tokenizer=str(TOKENIZER))
    return replace(common, vlm=preset.vlm, tokenizer=str(TOKENIZER))


def pack_settings(stage: Stage, settings: BenchSettings) -> PackSettings:
    """The packs that a stage of these settings is fed with."""
    text = stage.text
    return PackSettings(
        max_tokens=settings.tokens,
        max_tiles=settings.tiles,
        questions_per_visit=settings.questions_per_visit if text else 1,
        padded=settings.padded,
        tile_size=stage.recipe.data.view.tile_size,
        tokens_per_tile=text.tokens_per_tile if text else 0,
        image_token=int(text.tokenizer.get_vocab()[IMAGE_TOKEN]) if text else _NO_WORDS,
        general=settings.general if text else 0.0,
        patches=num_patches(vision_config(PRESETS[settings.preset].student)) if settings.cached else 0,
        entries=stage.recipe.distill.codebook_size,
        top_k=stage.recipe.distill.top_k,
    )
