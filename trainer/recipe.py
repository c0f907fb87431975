"""The sections of a recipe: what a user may set, with unit and default. Checks are in `trainer.recipe_checks`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_shards.coords import CoordinateFormat
from data_shards.view_layout import ViewLayout
from trainer.checkpointing_section import CheckpointingSection


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Where weights come from: directories of saved models, or names of presets for fresh weights.

    Attributes:
        teacher: distill: directory of the teacher tower, or of a whole model whose tower it is; a preset has random
            weights, to try sizes with.
        teacher_vlm: distill: directory of the whole model whose projector and language model `answer_logits` asks; its
            tower is the teacher where `teacher` is not given.
        student: distill: preset or directory the student starts from.
        student_layers: distill, in the place of `student`: number of evenly spaced layers of the teacher, first and
            last among them, that the student starts as, in the teacher's width; 0 for none.
        vision: align: preset or directory of the vision tower, as a distill run writes to `RUN_DIR/model`.
        language: align: directory (or preset) of the language model.
        vlm: finetune: directory of a whole model, as an align run writes to `RUN_DIR/model`, or a preset.
        tokenizer: align: directory of the tokenizer; finetune: as well, where `vlm` has none.
        projector: `mlp` (stock) or `linear`.
        drop_path: stochastic depth of the trained vision tower's last layer, in [0, 1); None for the rate of
            the tower's own configuration (0.1 in `internvit-300m`).
        attention: kernels of the language model's packs and of the towers; `auto` takes the fastest that works here.
        kernels: of RMSNorm, SwiGLU, rotary embeddings, cross-entropy and layers of the tower; `auto` takes the fastest
            on a GPU, and `plain` elsewhere.
        checkpointing: activation checkpointing of the trained tower and of the language model.
        freeze: patterns of names (`*`, `?`, `[...]`) of further parameters that are not trained, each matching some;
            names are those of `--dry-run`, such as `vlm.model.vision_tower.encoder.layer.0.*`.
    """

    teacher: str | None = None
    teacher_vlm: str | None = None
    student: str | None = None
    student_layers: int = 0
    vision: str | None = None
    language: str | None = None
    vlm: str | None = None
    tokenizer: str | None = None
    projector: str = "mlp"
    drop_path: float | None = None
    attention: Literal["auto", "flash", "varlen", "flex", "sdpa"] = "auto"
    kernels: Literal["auto", "liger", "compile", "plain"] = "auto"
    checkpointing: CheckpointingSection = field(default_factory=CheckpointingSection)
    freeze: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DatasetSection:
    """One dataset of the mixture.

    Attributes:
        path: directory of shards, or its address: http://, https:// or s3://.
        weight: times each question is shown an epoch; 1 where it is not said. Where no dataset of align or finetune has
            a weight or a fraction, and some are general, packs show four tokens of driving for each general one.
        fraction: share of the mixture's tokens (of its tiles in stages on images only), in place of a weight; given to
            all datasets or to none, and only the ratios count. The scarcest dataset is then shown whole an epoch.
        name: in metrics; the directory's name where empty.
        targets: distill: directory or address of what the teacher made of this dataset's tiles, as `python -m
            data_shards teacher-targets` writes it; the teacher is then not loaded. For all datasets or for none.
    """

    path: Path
    weight: float | None = None
    fraction: float | None = None
    name: str = ""
    targets: Path | None = None


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """What is read and how it is packed.

    Attributes:
        datasets: the mixture.
        view: how images become tiles.
        max_tokens, max_tiles: limits of one pack.
        questions_per_visit: mean number of questions on one copy of a frame; 1 gives classic packing.
        workers: loader processes of each rank; 0 reads in the training process.
        prefetch: packs each worker makes ahead.
        max_bad_fraction: largest fraction of the samples seen that may be unusable before the run stops; one sample
            always may, unless this is 0.
        cache_dir: where indexes and frames of datasets at an address are kept.
        cache_gib: GiB of frames kept of each such dataset; 0 for none.
        template: chat template.
        system: system message; empty for none.
        coordinates: how the points of questions and answers are written for the model; one that was trained before has
            to be asked in its own form.
    """

    datasets: tuple[DatasetSection, ...]
    view: ViewLayout = field(default_factory=ViewLayout)
    max_tokens: int = 16384
    max_tiles: int = 48
    questions_per_visit: int = 16
    workers: int = 2
    prefetch: int = 2
    max_bad_fraction: float = 0.001
    cache_dir: Path = Path("~/.cache/drivlm")
    cache_gib: float = 50.0
    template: Literal["internlm2-chat", "chatml"] = "internlm2-chat"
    system: str = ""
    coordinates: CoordinateFormat = field(default_factory=CoordinateFormat)


@dataclass(frozen=True, kw_only=True)
class BatchSection:
    """Attributes: micro_batches: packs of each rank in one step, one after the other (gradient accumulation)."""

    micro_batches: int = 1


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """Peak learning rate of each module; one number in the recipe sets all four."""

    vision: float = 1e-5
    projector: float = 1e-4
    language: float = 1e-5
    bridge: float = 1e-3

    @classmethod
    def from_number(cls, rate: float) -> "LearningRates":
        """The same rate for every module."""
        return cls(vision=rate, projector=rate, language=rate, bridge=rate)


@dataclass(frozen=True, kw_only=True)
class WeightDecays:
    """Decoupled weight decay of each module; one number in the recipe sets all four."""

    vision: float = 0.01
    projector: float = 0.01
    language: float = 0.01
    bridge: float = 0.01

    @classmethod
    def from_number(cls, decay: float) -> "WeightDecays":
        """The same decay for every module."""
        return cls(vision=decay, projector=decay, language=decay, bridge=decay)


@dataclass(frozen=True, kw_only=True)
class OptimSection:
    """AdamW and its schedule.

    Attributes:
        lr: peak learning rate, by module.
        weight_decay: by module, of what `no_decay` does not name.
        no_decay: kinds of parameters without decay.
        layer_decay: factor on the vision tower's rate from each layer to the one below it, in (0, 1]; the last layer
            has the whole rate, the embeddings have the lowest.
        warmup: below 1 a fraction of all steps, from 1 a number of steps.
        min_lr: where the schedule ends, as a fraction of the peak.
        grad_clip: largest global gradient norm; 0 for none.
        kernel: of AdamW; `auto` takes what the DeepSpeed configuration says, else torch's `fused` on a GPU.
    """

    lr: LearningRates = field(default_factory=LearningRates)
    weight_decay: WeightDecays = field(default_factory=WeightDecays)
    no_decay: tuple[Literal["norms", "biases", "layer_scale", "embeddings"], ...] = (
        "norms",
        "biases",
        "layer_scale",
        "embeddings",
    )
    layer_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_lr: float = 0.0
    grad_clip: float = 1.0
    kernel: Literal["auto", "fused", "plain", "deepspeed"] = "auto"


@dataclass(frozen=True, kw_only=True)
class DistillSection:
    """Distillation terms.

    Attributes:
        features: weight of the negative cosine between bridged student and teacher states.
        patch_logits: weight of the KL on codebook logits of patches.
        answer_logits: weight of the KL on the answer tokens of the frames' questions, which teacher and student answer
            through the frozen projector and language model of `model.teacher_vlm`.
        last_k: layers the features term compares, counted from the end.
        temperature: T of both KLs, which are scaled by T^2.
        codebook: file of the visual vocabulary, as `teacher-targets --fit-codebook` writes it; where it is not given,
            the run fits its own on its first tiles.
        top_k: likeliest codebook entries of a patch that cached targets keep, beside the probability of all others
            together; 0 keeps all entries.
        codebook_size: prototypes of the visual vocabulary.
        codebook_temperature: cosine similarities over this are the logits.
        codebook_tiles: teacher tiles the codebook is fitted on.
        codebook_iterations: rounds of spherical k-means.
        teacher_placement: `replicate` holds the teacher whole on every rank, `partition` divides it under ZeRO-3;
            `auto` divides it where it is larger than 2 GB.
    """

    features: float = 1.0
    patch_logits: float = 1.0
    answer_logits: float = 0.0
    last_k: int = 1
    temperature: float = 1.0
    codebook: Path | None = None
    top_k: int = 32
    codebook_size: int = 1024
    codebook_temperature: float = 0.07
    codebook_tiles: int = 256
    codebook_iterations: int = 10
    teacher_placement: Literal["auto", "replicate", "partition"] = "auto"


@dataclass(frozen=True, kw_only=True)
class ValidationSection:
    """Looking at held-out data during training; the last step always does, where there are datasets.

    Attributes:
        datasets: held-out shards; weights do not count.
        every: steps between looks; 0 for the last step alone.
        max_packs: packs of each dataset that are looked at; 0 for all.
        answers: frames of each dataset whose tagged and general questions are answered greedily and scored, in stages
            with a language model; 0 for none.
        max_new_tokens: longest answer.
        best: what the best checkpoint is chosen by: `loss`, or a score of the answers.
    """

    datasets: tuple[DatasetSection, ...] = ()
    every: int = 0
    max_packs: int = 0
    answers: int = 0
    max_new_tokens: int = 110
    best: Literal["loss", "accuracy", "match_f1", "object_f1", "bleu_1", "bleu_4", "rouge_l", "cider", "exact"] = "loss"


@dataclass(frozen=True, kw_only=True)
class ProfileSection:
    """What torch.profiler records, on every rank.

    Attributes:
        start: first step, counted from 1.
        steps: number of steps; 0 for none.
    """

    start: int = 10
    steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything one stage needs, but for what the DeepSpeed configuration owns.

    Attributes:
        loss_weight: weight of a label token in a question with n of them: 1, 1/n, 1/sqrt(n).
        coordinate_weight: factor on the weight of the label tokens that write a point.
        log_every, image_log_every, checkpoint_every: in steps; 0 for never (checkpoints: only on a signal).
        keep: newest checkpoints kept.
        sample_log: write each step's questions to `RUN_DIR/samples`, a file of each rank.
        hang_after: seconds without a sign of life after which the stacks of all ranks are written; 0 for never.
        max_skipped: steps in a row that may be skipped because a loss or gradient is not finite.
        device_peak_tflops: dense peak of one device in the precision trained in; 0 takes a known device's for bfloat16.
    """

    stage: Literal["distill", "align", "finetune"]
    run_dir: Path
    steps: int
    data: DataSection
    seed: int = 0
    model: ModelSection = field(default_factory=ModelSection)
    batch: BatchSection = field(default_factory=BatchSection)
    optim: OptimSection = field(default_factory=OptimSection)
    distill: DistillSection = field(default_factory=DistillSection)
    loss_weight: Literal["token", "sample", "square"] = "square"
    coordinate_weight: float = 1.0
    log_every: int = 10
    image_log_every: int = 0
    checkpoint_every: int = 500
    keep: int = 2
    sample_log: bool = False
    hang_after: float = 300.0
    max_skipped: int = 10
    device_peak_tflops: float = 0.0
    validation: ValidationSection = field(default_factory=ValidationSection)
    profile: ProfileSection = field(default_factory=ProfileSection)
