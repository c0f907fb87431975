"""What the command line says in; the recipe and packs that a benchmark runs, over models with random weights, out."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from data_shards.chat import IMAGE_TOKEN
from data_shards.tiling import ViewLayout
from trainer.bench.packs import DATASET, PackSettings
from trainer.recipe import (
    CheckpointingSection,
    DataSection,
    DatasetSection,
    DistillSection,
    ModelSection,
    OptimSection,
    Recipe,
)
from trainer.stages.base import Stage

_NO_WORDS = 4
"""Any id: jobs on images have no words."""

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "models" / "tiny" / "language"
"""Only its special tokens matter: texts are random ids."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Names of model presets, and the side of their tiles in pixels."""

    teacher: str
    student: str
    language: str
    vlm: str
    tile_size: int


PRESETS = {
    "drivlm-2b": Preset(
        teacher="internvit-6b",
        student="internvit-300m",
        language="internlm2-1.8b",
        vlm="drivlm-2b",
        tile_size=448,
    ),
    "tiny": Preset(teacher="tiny-teacher", student="tiny-student", language="tiny-lm", vlm="tiny-vlm", tile_size=112),
}


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """One measurement.

    Attributes:
        preset: of `PRESETS`.
        tokens, tiles: limits of a pack.
        steps, warmup: measured, and run before.
        questions_per_visit: 1 is classic packing.
        padded: conversations are filled up to the longest.
        ds_config: DeepSpeed JSON.
        peak_tflops: of the device, dense, in the precision of training; None where it is in the table.
        gpu_gib: memory of a card; where it is given, the fewest layers are checkpointed that make the estimate fit.
    """

    preset: str
    stage: Literal["distill", "align", "finetune"]
    ds_config: Path
    tokens: int = 16384
    tiles: int = 48
    steps: int = 20
    warmup: int = 3
    questions_per_visit: int = 32
    padded: bool = False
    attention: Literal["auto", "flash", "varlen", "flex", "sdpa"] = "auto"
    checkpointing: CheckpointingSection = field(default_factory=CheckpointingSection)
    peak_tflops: float | None = None
    gpu_gib: float | None = None


def bench_recipe(settings: BenchSettings, run_dir: Path) -> Recipe:
    """The recipe of a benchmark: that of a stage, with presets in the place of directories."""
    return Recipe(
        stage=settings.stage,
        run_dir=run_dir,
        steps=settings.warmup + settings.steps,
        model=_models(settings),
        data=DataSection(
            datasets=(DatasetSection(path=Path(DATASET), name=DATASET),),
            view=ViewLayout(tile_size=PRESETS[settings.preset].tile_size),
            max_tokens=settings.tokens,
            max_tiles=settings.tiles,
            questions_per_visit=settings.questions_per_visit,
        ),
        optim=OptimSection(warmup=0.0, schedule="constant"),
        distill=DistillSection(codebook_tiles=settings.tiles, codebook_iterations=1, codebook_size=64),
        log_every=1,
    )


def _models(settings: BenchSettings) -> ModelSection:
    preset = PRESETS[settings.preset]
    common = ModelSection(attention=settings.attention, checkpointing=settings.checkpointing)
    if settings.stage == "distill":
        return replace(common, teacher=preset.teacher, student=preset.student)
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
    )
