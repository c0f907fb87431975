"""Stages of the demo's recipes with other settings in, models and answers out: a process each, several side by side."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[1]
ONE_RANK = {
    "distill": ("data.max_tiles=48",),
    "align": ("data.max_tokens=4096", "data.max_tiles=72"),
    "finetune": ("data.max_tokens=4096", "data.max_tiles=72"),
}
"""Packs as large as both of the demo's ranks have together."""

Task = TypeVar("Task")
Result = TypeVar("Result")


class StepError(RuntimeError):
    """A command of a study that failed; the log it names says why."""


def side_by_side(jobs: int, work: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    """Results in the order of the tasks, `jobs` of them being worked on at a time.

    Raises:
        StepError: of the first task that failed; those under way go on to their end, later ones are not begun.
    """
    failed = threading.Event()

    def unless_failed(task: Task) -> Result:
        if failed.is_set():
            raise CancelledError
        try:
            return work(task)
        except StepError:
            failed.set()
            raise

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(unless_failed, task) for task in tasks]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def train(stage: str, run_dir: Path, settings: Sequence[str]) -> Path:
    """The model that a stage of the demo leaves with these settings; nothing is done where it is there already.

    Raises:
        StepError: the stage failed.
    """
    model = run_dir / "model"
    if not ((run_dir / "summary.json").is_file() and model.is_dir()):
        files = ["--ds_config", "ds_configs/cpu_zero3.json", "--recipe", f"trainer/recipes/demo_{stage}.yaml"]
        own = [f"run_dir={run_dir}", "image_log_every=0", "data.workers=1", *ONE_RANK[stage]]
        execute(["trainer/run.py", *files, *own, *settings], run_dir.with_name(f"{run_dir.name}.log"))
    return model


def answer(model: Path, shards: Path, out: Path) -> Path:
    """The file of a model's answers to the questions of shards; nothing is done where it is there already.

    Raises:
        StepError: `trainer.evaluate predict` failed.
    """
    if not out.is_file():
        predict = ["-m", "trainer.evaluate", "predict", "--max-new-tokens", "200", "--data", shards]
        execute([*predict, "--model", model, "--out", out], out.with_suffix(".log"))
    return out


def make_world(
    data: Path,
    *,
    scenes: int,
    held_out: int,
    seed: int,
    frames_per_scene: int = 2,
    form: str = "both",
    general_images: int = 0,
) -> None:
    """Driving shards `train` and `val`, `references.json` of `val`, and `general` where asked for.

    Args:
        form: of the questions, as `data_shards synthetic --form` takes it.

    Raises:
        StepError: one of the commands failed.
    """
    log = data / "data.log"
    make = ["-m", "data_shards", "synthetic", "--seed", seed, "--out"]
    dataset = data / "driving" / "val" / "dataset.json"
    if dataset.is_file() and (found := json.loads(dataset.read_text())["build"].get("form")) != form:
        raise StepError(f"{dataset}: got questions of form {found}, expected {form}; give another directory")
    if not dataset.is_file():
        sizes = ["--scenes", scenes + held_out, "--frames-per-scene", frames_per_scene, "--image-width", 400]
        split = ["--form", form, "--val-fraction", f"{held_out / (scenes + held_out):.6f}"]
        execute([*make, data / "driving", *sizes, *split], log)
    if general_images and not (data / "general" / "dataset.json").is_file():
        sizes = ["--scenes", general_images, "--frames-per-scene", 1, "--image-width", 224]
        execute([*make, data / "general", "--family", "general", *sizes], log)
    make_references(data / "driving" / "val", data / "references.json", log)


def make_labelled(data: Path, scenes: int, *, seed: int) -> Path:
    """Driving shards of so many scenes, for training on their questions; nothing is done where they are there already.

    Raises:
        StepError: `data_shards synthetic` failed.
    """
    shards = data / f"labelled-{scenes}"
    if not (shards / "dataset.json").is_file():
        sizes = ["--scenes", scenes, "--frames-per-scene", 2, "--image-width", 400]
        execute(["-m", "data_shards", "synthetic", "--seed", seed, "--out", shards, *sizes], data / "data.log")
    return shards


def make_references(shards: Path, out: Path, log: Path) -> None:
    """The questions and answers of shards in DriveLM's test form; nothing is done where they are there already.

    Raises:
        StepError: `data_shards references` failed.
    """
    if not out.is_file():
        execute(["-m", "data_shards", "references", shards, "--out", out], log)


def execute(arguments: Sequence[Any], log: Path) -> None:
    """Run Python on these arguments from the project's root, with one thread; its output is added to the log.

    Raises:
        StepError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    words = [str(word) for word in arguments]
    log.parent.mkdir(parents=True, exist_ok=True)
    print("$ python " + " ".join(words), flush=True)
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        raise StepError(f"exit status {done.returncode} from\n  python {' '.join(words)}\nits output is in {log}")
