"""What distillation is worth on the synthetic world: accuracy after stages 1 and 2 with and without it, and ablations.

    python -m benchmarks.distillation_study --out runs/bench/distillation_study.json

Every student goes through the demo's stages with fewer steps, on one rank, two students at a time. `undistilled` never
saw the teacher; `undistilled longer` gets the steps of the distillation as further steps of stage 2, so that both
students take equally many. With --labelled-scenes N stages 1 and 2 see the questions of N other scenes alone, while the
teacher is asked about the images of all --scenes. Terms, the entries kept in cached targets, and three teachers of
several sizes are compared on the first seeds. What is done already under --work-dir is kept: started again, the study
goes on.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.students import ROOT, answer, execute, make_labelled, make_world, side_by_side, train
from data_shards.atomic import write_atomically, write_json
from trainer.demo import TINY, columns
from trainer.evaluate.drivelm import score
from trainer.evaluate.judge import NoJudge
from trainer.evaluate.submission import read_references, read_submission
from trainer.tiny.sized import make_sized_teacher, sized_config

TEACHERS = {"small": (64, 2), "medium": (96, 3), "large": (160, 5)}
"""Width and layers."""

SETS = ("driving", "general")
"""Datasets of the demo's recipes."""

ANSWERS = [f"model.teacher_vlm={TINY / 'teacher-vlm'}", "data.max_tokens=4096", "data.questions_per_visit=4"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to make a student.

    Attributes:
        distill: settings of the distillation; None leaves it out.
        top_k: of cached targets; None asks the teacher itself.
        teacher: one of `TEACHERS`, or None for that of `models/tiny`.
        longer: stage 2 gets the steps of the distillation as well.
    """

    distill: tuple[str, ...] | None = ()
    top_k: int | None = None
    teacher: str | None = None
    longer: bool = False


def _terms(features: float, patch: float, answers: float) -> tuple[str, ...]:
    weights = (f"distill.features={features}", f"distill.patch_logits={patch}", f"distill.answer_logits={answers}")
    return (*weights, *ANSWERS) if answers else weights


MAIN = {
    "distilled": Variant(),
    "undistilled": Variant(distill=None),
    "undistilled longer": Variant(distill=None, longer=True),
}
ABLATIONS = {
    "features": Variant(distill=_terms(1, 0, 0)),
    "patch_logits": Variant(distill=_terms(0, 1, 0)),
    "answer_logits": Variant(distill=_terms(0, 0, 1)),
    "all three": Variant(distill=_terms(1, 1, 1)),
    "cached k=8": Variant(top_k=8),
    "cached k=32": Variant(top_k=32),
    "cached k=all": Variant(top_k=0),
    **{f"teacher {name}": Variant(teacher=name) for name in TEACHERS},
}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Sizes: steps of each stage and of the teachers, scenes of the world, where everything lies.

    Attributes:
        labelled: driving shards of stages 1 and 2.
    """

    work: Path
    distill_steps: int
    align_steps: int
    finetune_steps: int
    teacher_steps: int
    scenes: int
    labelled: Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the table; exit status 1 where distillation does not help in every seed."""
    options = _parser().parse_args(arguments)
    os.chdir(ROOT)
    data = options.work_dir / "data"
    held_out = max(2, options.scenes // 8)
    make_world(data, scenes=options.scenes, held_out=held_out, seed=20, general_images=100)
    study = Study(
        work=options.work_dir,
        distill_steps=options.distill_steps,
        align_steps=options.align_steps,
        finetune_steps=options.finetune_steps,
        teacher_steps=options.teacher_steps,
        scenes=options.scenes,
        labelled=_labelled(data, options.labelled_scenes),
    )
    wanted = options.variants.split(",") if options.variants else [*MAIN, *ABLATIONS]
    plan = [(name, seed) for seed in range(options.seeds) for name in wanted if name in MAIN]
    plan += [(name, seed) for seed in range(options.ablation_seeds) for name in wanted if name in ABLATIONS]
    for name in dict.fromkeys(name for name, _ in plan):
        prepare(study, (MAIN | ABLATIONS)[name])
    found = side_by_side(options.jobs, lambda one: run_variant(study, *one), plan)
    scores: dict[str, dict[str, Any]] = {}
    for (name, seed), own in zip(plan, found, strict=True):
        scores.setdefault(name, {})[str(seed)] = own
    result = {"sizes": {k: str(v) for k, v in vars(study).items() if k != "work"}, "scores": scores}
    print(table(scores))
    if options.out:
        write_json(options.out, result)
    return 0 if helps(scores) else 1


def run_variant(study: Study, name: str, seed: int) -> dict[str, float]:
    """Scores of a student on held-out scenes, after stages 1 and 2; made where they are not there yet."""
    variant = (MAIN | ABLATIONS)[name]
    home = study.work / f"seed-{seed}" / name.replace(" ", "-")
    kept = home / "scores.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    common = [f"seed={seed}", "checkpoint_every=0"]
    vision: str | Path = "tiny-student"
    if variant.distill is not None:
        settings = [f"steps={study.distill_steps}", *common, *_data(study), *_distillation(study, variant)]
        vision = train("distill", home / "distill", settings)
    common += _data(study, study.labelled)
    aligned = train("align", home / "align", [f"steps={study.align_steps}", *common, f"model.vision={vision}"])
    steps = study.finetune_steps + (study.distill_steps if variant.longer else 0)
    tuned = train("finetune", home / "finetune", [f"steps={steps}", *common, f"model.vlm={aligned}"])
    answers = answer(tuned, study.work / "data" / "driving" / "val", home / "predictions.json")
    references = read_references(study.work / "data" / "references.json")
    scores = columns(score(references, read_submission(answers), NoJudge()))
    write_atomically(kept, json.dumps(scores, indent=2).encode())
    return scores


def helps(scores: dict[str, dict[str, Any]]) -> bool:
    """Whether the distilled student is the more accurate one in every seed; true where only one of them was run."""
    rivals = [scores[name] for name in ("undistilled", "undistilled longer") if name in scores]
    own = scores.get("distilled", {})
    return all(own[seed]["accuracy"] > rival[seed]["accuracy"] for rival in rivals for seed in own)


def table(scores: dict[str, dict[str, Any]]) -> str:
    """Markdown: mean over seeds, and accuracy of each."""
    lines = ["| | accuracy | object F1 | BLEU-4 | accuracy by seed |", "|---|---|---|---|---|"]
    for name, by_seed in scores.items():
        means = (statistics.fmean(own[c] for own in by_seed.values()) for c in ("accuracy", "object_f1", "bleu_4"))
        each = ", ".join(f"{own['accuracy']:.3f}" for own in by_seed.values())
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + f" | {each} |")
    return "\n".join(lines)


def _data(study: Study, driving: Path | None = None) -> list[str]:
    data = study.work / "data"
    paths = (driving or data / "driving" / "train", data / "general")
    return [f"data.datasets.{i}.path={path}" for i, path in enumerate(paths)]


def _labelled(data: Path, scenes: int | None) -> Path:
    """Shards of so many scenes that are in no other; those of the distillation without a number."""
    return make_labelled(data, scenes, seed=21) if scenes else data / "driving" / "train"


def prepare(study: Study, variant: Variant) -> None:
    """Make the teacher or the cached targets of a variant, where it needs them and they are missing."""
    if variant.teacher is not None:
        _teacher(study, variant.teacher)
    cached = [] if variant.top_k is None else _cached(study, variant.top_k)
    if cached and not all((_targets(study, variant.top_k) / name / "dataset.json").is_file() for name in SETS):
        make = ["-m", "data_shards", "teacher-targets", "--recipe", "trainer/recipes/demo_distill.yaml"]
        log = _targets(study, variant.top_k).with_suffix(".log")
        execute([*make, "--fit-codebook", *_data(study), *cached], log)
        execute([*make, *_data(study), *cached], log)


def _distillation(study: Study, variant: Variant) -> list[str]:
    """Settings of a variant's distillation."""
    assert variant.distill is not None
    teacher = [] if variant.teacher is None else [f"model.teacher={study.work}/teacher-{variant.teacher}"]
    cached = [] if variant.top_k is None else _cached(study, variant.top_k)
    return [*variant.distill, *teacher, *cached]


def _cached(study: Study, top_k: int) -> list[str]:
    targets = [f"data.datasets.{i}.targets={_targets(study, top_k)}/{name}" for i, name in enumerate(SETS)]
    return [f"distill.codebook={study.work}/codebook.safetensors", f"distill.top_k={top_k}", *targets]


def _targets(study: Study, top_k: int | None) -> Path:
    return study.work / f"targets-{top_k}"


def _teacher(study: Study, name: str) -> Path:
    """A teacher tower of its own size, trained like that of `models/tiny` for fewer steps."""
    directory = study.work / f"teacher-{name}"
    if not (directory / "config.json").is_file():
        config = sized_config(*TEACHERS[name])
        make_sized_teacher(config, directory, steps=study.teacher_steps, num_scenes=study.scenes, seed=7)
    return directory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("runs/study"))
    parser.add_argument("--jobs", type=int, default=2, help="students trained at a time, a core for each (default: 2)")
    parser.add_argument("--seeds", type=int, default=3, help="of distilled and undistilled (default: 3)")
    parser.add_argument("--ablation-seeds", type=int, default=1, help="of the ablations (default: 1)")
    parser.add_argument("--variants", help="only these, by name, separated by commas")
    parser.add_argument("--distill-steps", type=int, default=300)
    parser.add_argument("--align-steps", type=int, default=60)
    parser.add_argument("--finetune-steps", type=int, default=200)
    parser.add_argument("--teacher-steps", type=int, default=300)
    parser.add_argument("--scenes", type=int, default=200, help="of two frames each, for training")
    parser.add_argument("--labelled-scenes", type=int, metavar="N", help="of stages 1 and 2 (default: all)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
