"""Formats of points and weights on their tokens in, how far off the answered points lie out: the synthetic world's.

    python -m benchmarks.centre_points [--out DIR] [--formats pixels.1 view.0 ...] [--weights 1 4] [--seeds 1 2 3]

Each frame is one view, and the question is where an object in it is: `data_shards synthetic --form positions`. With six
views the tiny model takes many times as long to learn to look at all. Every combination fine-tunes the same model on
the same scenes for the same steps, two at a time, answers held-out scenes, and is scored in DriveLM's pixels:
`trainer.evaluate.centre_points`. The vision tower is frozen: it was trained to tell where the objects in a view are,
and how the language model learns to say so is what is compared. Started again with the same arguments the study goes
on where it was. A format is a space and its decimals, see `data_shards.coords`. The tiny language model was pretrained
on points in pixels, so that the other formats begin behind; what a short run says in their favour is said all the more.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.students import answer, make_references, make_world, side_by_side, train
from data_shards.coords import CoordinateFormat
from trainer.evaluate.diagnosis import diagnose
from trainer.evaluate.drivelm import evaluate
from trainer.evaluate.judge import NoJudge
from trainer.evaluate.submission import read_references, read_submission, reference_questions
from trainer.evaluate.tags import meant_tags

FORMATS = ("pixels.1", "pixels.0", "canvas.0", "view.0")
COLUMNS = {
    "median": "median px",
    "mean": "mean px",
    "p90": "p90 px",
    "within": "within 16 px",
    "match_f1": "match F1",
    "drift": "no tag",
}
WITHOUT_VIEWS = "no view seen"
FROZEN = "vlm.model.vision_tower.*"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to write points and to weigh their tokens, and the seed of the run."""

    format: CoordinateFormat
    weight: float
    seed: int

    @property
    def way(self) -> str:
        """What several seeds share."""
        return f"{self.format.space}.{self.format.decimals} weight {self.weight:g}"

    @property
    def directory(self) -> str:
        return f"{self.format.space}.{self.format.decimals}-w{self.weight:g}-s{self.seed}"


def main(arguments: Sequence[str]) -> int:
    """Run what is not done yet, write results.json, print the table."""
    options = _parser().parse_args(arguments)
    data = options.out / "data"
    make_world(
        data,
        scenes=options.scenes,
        held_out=options.heldout_scenes,
        seed=options.world,
        frames_per_scene=1,
        form="positions",
    )
    make_references(data / "driving" / "train", data / "train.json", data / "data.log")
    references = read_references(data / "references.json")
    variants = [
        Variant(format=parse_format(name), weight=weight, seed=seed)
        for seed in options.seeds
        for weight in options.weights
        for name in options.formats
    ]
    blind = answers_without_views(read_references(data / "train.json"), references)
    answers = side_by_side(options.jobs, lambda variant: _answers(variant, options, data), variants)
    results = {WITHOUT_VIEWS: {"way": WITHOUT_VIEWS, **measure(references, blind)}}
    for variant, own in zip(variants, answers, strict=True):
        results[variant.directory] = {"way": variant.way, **measure(references, read_submission(own))}
    (options.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    return 0


def parse_format(name: str) -> CoordinateFormat:
    """`SPACE.DECIMALS`, such as `canvas.0`.

    Raises:
        ValueError: another form, space or number.
    """
    space, _, decimals = name.partition(".")
    if not decimals.isdecimal():
        raise ValueError(f"--formats: got {name!r}, expected SPACE.DECIMALS such as {', '.join(FORMATS)}")
    return CoordinateFormat(space=space, decimals=int(decimals))  # type: ignore[arg-type]  # checked there


def answers_without_views(train: Mapping[str, Any], references: Mapping[str, Any]) -> list[dict[str, str]]:
    """What can be said without a view: for each camera the median x and y of its points in training.

    Args:
        train, references: DriveLM's test form, every answer with one tag.

    Returns:
        submission rows.
    """
    points = defaultdict(list)
    for question in reference_questions(train):
        for tag in meant_tags(question.answer):
            points[tag.camera].append((tag.x, tag.y))
    middle = {camera: tuple(map(statistics.median, zip(*own, strict=True))) for camera, own in points.items()}
    rows = []
    for question in reference_questions(references):
        camera = meant_tags(question.answer)[0].camera
        x, y = middle[camera]
        rows.append({"id": question.id, "question": question.question, "answer": f"<c1,{camera},{x:.1f},{y:.1f}>."})
    return rows


def measure(references: Mapping[str, Any], answers: Sequence[Any]) -> dict[str, Any]:
    """Errors of points, without the graph gate: the columns of `COLUMNS`, and `by_camera` and `by_distance`."""
    evaluation = evaluate(references, answers, NoJudge())
    diagnosis = diagnose(evaluation, references)
    points = diagnosis["centre_points"]
    return {
        **{name: points["all"][name] for name in ("median", "mean", "p90", "within")},
        "match_f1": evaluation.summary()["ungated"]["match_f1"],
        "drift": diagnosis["syntax"]["share"] or 0.0,
        "by_camera": points["by_camera"],
        "by_distance": points["by_distance"],
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a way, means over seeds and in brackets the largest distance from them; smallest median error first."""
    ways = list(dict.fromkeys(row["way"] for row in results.values()))
    lines = []
    for way in ways:
        rows = [row for row in results.values() if row["way"] == way]
        cells = [_spread([row[name] for row in rows if row[name] is not None]) for name in COLUMNS]
        medians = [row["median"] for row in rows if row["median"] is not None]
        lines.append((statistics.mean(medians) if medians else float("inf"), f"| {way} | {' | '.join(cells)} |"))
    head = f"| points | {' | '.join(COLUMNS.values())} |\n|---|{'---|' * len(COLUMNS)}"
    return "\n".join([head, *(line for _, line in sorted(lines))])


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = statistics.mean(values)
    digits = 1 if mean >= 2 else 3
    farthest = max(abs(value - mean) for value in values)
    return f"{mean:.{digits}f}" + (f" ({farthest:.{digits}f})" if len(values) > 1 else "")


def _answers(variant: Variant, options: argparse.Namespace, data: Path) -> Path:
    """Fine-tune and answer, as far as that is not done."""
    run_dir = options.out / variant.directory
    settings = [
        f"model.vlm={options.model}",
        f"model.freeze=[{FROZEN}]",
        f"data.datasets=[{{path: {data / 'driving' / 'train'}}}]",
        f"data.coordinates={{space: {variant.format.space}, decimals: {variant.format.decimals}}}",
        f"coordinate_weight={variant.weight}",
        f"seed={variant.seed}",
        f"steps={options.steps}",
        "checkpoint_every=0",
        "data.max_tokens=2400",
        "optim.lr.language=0.002",
        "optim.lr.projector=0.004",
    ]
    model = train("finetune", run_dir, settings)
    return answer(model, data / "driving" / "val", run_dir / "predictions.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Errors of centre points by format of points and weight in the loss.")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/positions"), help="(default: %(default)s)")
    parser.add_argument("--model", type=Path, default=Path("models/tiny/teacher-vlm"), help="(default: %(default)s)")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), metavar="SPACE.DECIMALS")
    parser.add_argument("--weights", nargs="+", type=float, default=[1.0, 4.0], help="on tokens that write a point")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core for each (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="of each run (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=4000, help="of one key frame (default: %(default)s)")
    parser.add_argument("--heldout-scenes", type=int, default=400, help="(default: %(default)s)")
    parser.add_argument("--world", type=int, default=21, help="seed of the world (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
