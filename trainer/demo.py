"""The whole job with tiny models: runs each command as a user would, ends with a table and runs/demo/summary.json."""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_shards.atomic import write_json
from data_shards.index import load_index
from data_shards.read import read_frame
from data_shards.sources.drivelm import tagged_questions
from trainer.demo_picture import answered_frame
from trainer.evaluate.baselines import majority_predictions
from trainer.evaluate.drivelm import score
from trainer.evaluate.judge import NoJudge
from trainer.evaluate.submission import read_references, read_submission, write_submission

ROOT = Path(__file__).resolve().parents[1]
TINY = Path("models/tiny")
MARK = ".demo"
STAGES = ("distill", "align", "finetune")
COLUMNS = ("accuracy", "object_f1", "match_f1", "bleu_4", "rouge_l", "cider")


class DemoError(RuntimeError):
    """A command of the demo that failed; its own output above says why."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is done.

    Attributes:
        train_scenes, heldout_scenes: of two key frames each.
        general_images: of the unrelated family.
        seed: of the world.
        steps: of every stage; what its recipe says where None.
    """

    train_scenes: int = 400
    heldout_scenes: int = 30
    general_images: int = 200
    seed: int = 20
    steps: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; exit status 0, or 1 where one of its commands failed."""
    parser = argparse.ArgumentParser(prog="python -m trainer.demo", description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"), help="made anew (default: %(default)s)")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    try:
        summary = run_demo(options.run_dir, Sizes())
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; make demo begins anew", file=sys.stderr)
        return 130
    print(render_summary(summary))
    return 0


def run_demo(run_dir: Path, sizes: Sizes) -> dict[str, Any]:
    """Make shards, train, evaluate and export; write and return the summary."""
    started = time.monotonic()
    _clear(run_dir)
    make_data(run_dir / "data", sizes)
    shared = _overrides(run_dir, sizes)
    former = {
        "distill": [],
        "align": [f"model.vision={run_dir}/distill/model"],
        "finetune": [f"model.vlm={run_dir}/align/model"],
    }
    for stage in STAGES:
        train_stage(stage, [f"run_dir={run_dir / stage}", *former[stage], *shared])
    _train_undistilled(run_dir / "undistilled", shared)
    run_command([sys.executable, "-m", "trainer.export", str(run_dir / "finetune"), str(run_dir / "export")])
    summary = {
        "seconds": 0.0,
        "stages": {stage: _stage_summary(run_dir / stage) for stage in STAGES},
        "scores": _evaluate(run_dir),
        "export": str(run_dir / "export"),
        "tensorboard": f"{Path(sys.executable).parent / 'tensorboard'} --logdir {run_dir}",
    }
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_json(run_dir / "summary.json", summary)
    _draw_answers(run_dir)
    return summary


def _clear(run_dir: Path) -> None:
    """An empty directory that is marked as a demo's; only such a one is removed.

    Raises:
        DemoError: it holds something else.
    """
    if run_dir.is_dir() and any(run_dir.iterdir()) and not (run_dir / MARK).is_file():
        raise DemoError(f"{run_dir}: holds files and no {MARK}, so it is no former demo's; name another --run-dir")
    if run_dir.exists():
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True)
    (run_dir / MARK).write_text("Made by python -m trainer.demo, which removes this directory when it starts again.\n")


def render_summary(summary: dict[str, Any]) -> str:
    """The table and the pointers that end the demo."""
    lines = [f"{'':12}" + "".join(f"{column:>11}" for column in COLUMNS)]
    for name, scores in summary["scores"].items():
        lines.append(f"{name:12}" + "".join(f"{scores[column]:11.3f}" for column in COLUMNS))
    stages = ", ".join(
        f"{name} {stage['steps']} steps {stage['seconds']:.0f} s" for name, stage in summary["stages"].items()
    )
    return "\n".join(
        [
            "",
            "Held-out scenes of the synthetic world (accuracy and F1 without the graph gate):",
            *lines,
            "",
            f"{summary['seconds']:.0f} s in all; {stages}",
            f"picture      {Path(summary['export']).parent / 'demo.png'}",
            f"export       {summary['export']}",
            f"TensorBoard  {summary['tensorboard']}",
        ]
    )


def make_data(data_dir: Path, sizes: Sizes) -> None:
    """Shards for training, `driving/train` and `general`, those of held-out scenes, and their references."""
    make = [sys.executable, "-m", "data_shards", "synthetic"]
    scenes = sizes.train_scenes + sizes.heldout_scenes
    driving = ["--scenes", str(scenes), "--frames-per-scene", "2", "--image-width", "400"]
    held_out = ["--val-fraction", f"{sizes.heldout_scenes / scenes:.6f}"]
    seed = ["--seed", str(sizes.seed)]
    run_command([*make, "--out", str(data_dir / "driving"), *driving, *held_out, *seed])
    general = ["--family", "general", "--scenes", str(sizes.general_images), "--frames-per-scene", "1"]
    run_command([*make, "--out", str(data_dir / "general"), *general, "--image-width", "224", *seed])
    validation = str(data_dir / "driving" / "val")
    run_command(
        [sys.executable, "-m", "data_shards", "references", validation, "--out", str(data_dir / "references.json")]
    )


def _overrides(run_dir: Path, sizes: Sizes) -> list[str]:
    data = [f"data.datasets.0.path={run_dir}/data/driving/train", f"data.datasets.1.path={run_dir}/data/general"]
    return data if sizes.steps is None else [*data, f"steps={sizes.steps}"]


def _train_undistilled(run_dir: Path, shared: Sequence[str]) -> None:
    """The same two stages from a student tower that never saw the teacher."""
    train_stage("align", [f"run_dir={run_dir}/align", "model.vision=tiny-student", *shared])
    train_stage("finetune", [f"run_dir={run_dir}/finetune", f"model.vlm={run_dir}/align/model", *shared])


def train_stage(stage: str, overrides: Sequence[str]) -> None:
    """Run one stage of the demo as a user would; `overrides` are laid over its recipe."""
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", "2", "trainer/run.py"]
    configs = ["--ds_config", "ds_configs/cpu_zero3.json", "--recipe", f"trainer/recipes/demo_{stage}.yaml"]
    run_command([*launcher, *configs, *overrides])


def run_command(*commands: Sequence[str]) -> None:
    """Show commands and run them side by side, on the CPU.

    Raises:
        DemoError: one of them failed.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "DS_ACCELERATOR": "cpu"}
    if len(commands) > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // len(commands)))
    shown = [shlex.join([Path(command[0]).name, *command[1:]]) for command in commands]
    print("\n" + "\n".join(f"$ {line}" for line in shown), flush=True)
    running = [subprocess.Popen(command, env=environment) for command in commands]
    statuses = [process.wait() for process in running]
    for line, status in zip(shown, statuses, strict=True):
        if status != 0:
            raise DemoError(f"the demo ends here: exit status {status} from\n  {line}")


def _stage_summary(stage_dir: Path) -> dict[str, Any]:
    summary = json.loads((stage_dir / "summary.json").read_text())
    return {name: summary[name] for name in ("steps", "seconds", "loss_first", "loss_last", "samples_per_s")}


def _evaluate(run_dir: Path) -> dict[str, dict[str, float]]:
    """Scores of the five rows on the held-out scenes, two models answering at a time."""
    answers = run_dir / "predictions"
    answers.mkdir()
    models = {
        "teacher": [str(TINY / "teacher-vlm")],
        "distilled": [str(run_dir / "export")],
        "undistilled": [str(run_dir / "undistilled" / "finetune" / "model")],
        "blind": [str(run_dir / "export"), "--black"],
    }
    predict = [sys.executable, "-m", "trainer.evaluate", "predict", "--max-new-tokens", "200"]
    predict += ["--data", str(run_dir / "data" / "driving" / "val")]
    commands = [[*predict, "--out", str(answers / f"{name}.json"), "--model", *model] for name, model in models.items()]
    for i in range(0, len(commands), 2):
        run_command(*commands[i : i + 2])
    references = read_references(run_dir / "data" / "references.json")
    majority = majority_predictions(_training_questions(run_dir / "data" / "driving" / "train"), references)
    write_submission(majority, answers / "majority.json")
    rows = ("teacher", "distilled", "undistilled", "majority", "blind")
    return {name: columns(score(references, read_submission(answers / f"{name}.json"), NoJudge())) for name in rows}


def _draw_answers(run_dir: Path, num_questions: int = 12) -> None:
    """`demo.png`: the first held-out frame with the distilled model's answers to its test questions."""
    frame = read_frame(load_index(run_dir / "data" / "driving" / "val"), 0)
    answers = {row["id"]: row["answer"] for row in read_submission(run_dir / "predictions" / "distilled.json")}
    answered = [
        (question.question, answers[f"{frame.scene}_{frame.frame}_{i}"], question.answer)
        for i, question in enumerate(tagged_questions(frame))
    ]
    answered_frame(frame, answered[:num_questions]).save(run_dir / "demo.png")


def _training_questions(shards: Path) -> list[tuple[str, str]]:
    index = load_index(shards)
    frames = (read_frame(index, position, with_images=False) for position in range(len(index)))
    return [(question.question, question.answer) for frame in frames for question in frame.questions]


def columns(scores: dict[str, Any]) -> dict[str, float]:
    """The figures of the table, of a file of scores."""
    language = scores["official"]["language"]
    return {
        "accuracy": scores["ungated"]["accuracy"],
        "object_f1": scores["object_f1"]["micro"],
        "match_f1": scores["ungated"]["match_f1"],
        **{name: language[name] for name in ("bleu_4", "rouge_l", "cider")},
    }


if __name__ == "__main__":
    sys.exit(main())
