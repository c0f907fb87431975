"""Settings of `questions_per_visit` and seeds in; held-out accuracy after the same number of questions out, as a table.

`python -m benchmarks.learns_the_same [--visits 1 16 32] [--seeds 1 2 3] [--questions 8000] [--work runs/bench/learns]`

Each run is a short stage 2 on the synthetic world, from one model joined of the tiny parts. All see the same number of
questions, in equally many steps of equally many questions; what differs is how many of a step share a frame. What is
done already is kept, so a stopped benchmark goes on with the same command.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from data_shards.atomic import write_atomically
from data_shards.chat import internlm2_chat
from data_shards.index import load_index
from data_shards.lengths import sample_sizes
from data_shards.plan import MixtureEntry, PackLimits, PackStream, SizeTable
from data_shards.tiling import ViewLayout
from trainer.evaluate.drivelm import score
from trainer.evaluate.judge import NoJudge
from trainer.evaluate.submission import read_references, read_submission

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "models" / "tiny"
VIEW = ViewLayout(tile_size=112, max_tiles=1, thumbnail=False)
TOKENS_PER_TILE = 16
MAX_TILES = 100_000
SCORES = ("accuracy", "object_f1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learns_the_same", description=__doc__)
    parser.add_argument("--visits", type=int, nargs="+", default=[1, 16, 32], help="the first is compared with")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--questions", type=int, default=8000, help="seen by each run (default: 8000)")
    parser.add_argument("--questions-per-step", type=int, default=64)
    parser.add_argument("--align-steps", type=int, default=60, help="of the model they all start from (default: 60)")
    parser.add_argument("--scenes", type=int, default=200, help="to train on; a tenth as many again to ask about")
    parser.add_argument("--work", type=Path, default=Path("runs/bench/learns"))
    options = parser.parse_args(arguments)
    make_world(options.work, options.scenes)
    join_parts(options.work, options.align_steps)
    sizes = lengths(options.work / "data" / "train")
    runs = {
        visit: [run(options, sizes, questions_per_visit=visit, seed=seed) for seed in options.seeds]
        for visit in options.visits
    }
    result = {"questions": options.questions, "runs": runs, "table": table(runs, options.visits[0])}
    write_atomically(options.work / "learns_the_same.json", (json.dumps(result, indent=2) + "\n").encode())
    for visit, row in result["table"].items():
        print(f"{visit:>4} questions a visit: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    return 0


def make_world(work: Path, scenes: int) -> None:
    """Shards of training and held-out scenes, and references."""
    held_out = max(1, scenes // 10)
    command = ["-m", "data_shards", "synthetic", "--frames-per-scene", "2", "--image-width", "400", "--seed", "20"]
    fraction = held_out / (scenes + held_out)
    data = work / "data"
    execute([*command, "--scenes", str(scenes + held_out), "--val-fraction", f"{fraction:.6f}", "--out", str(data)])
    execute(["-m", "data_shards", "references", str(data / "val"), "--out", str(work / "references.json")])


def join_parts(work: Path, steps: int) -> None:
    """The model that every run starts from: tiny tower and language model, and a projector trained for some steps."""
    settings = [f"run_dir={work / 'base'}", f"steps={steps}", f"model.vision={PARTS / 'teacher-vlm'}"]
    train("align", [*settings, data_of(work), "checkpoint_every=20"])


def run(options: argparse.Namespace, sizes: SizeTable, *, questions_per_visit: int, seed: int) -> dict[str, float]:
    """Train, answer, score; or the scores of an earlier start."""
    place = options.work / f"visit-{questions_per_visit}-seed-{seed}"
    done = place / "scores.json"
    if done.is_file():
        return json.loads(done.read_text())
    max_tokens, per_pack = limit_for(sizes, questions_per_visit, options.questions_per_step)
    steps = max(1, round(options.questions / per_pack))
    settings = [f"run_dir={place}", f"model.vlm={options.work / 'base' / 'model'}", f"seed={seed}", f"steps={steps}"]
    packs = [f"data.questions_per_visit={questions_per_visit}", f"data.max_tokens={max_tokens}"]
    train("finetune", [*settings, *packs, f"data.max_tiles={MAX_TILES}", data_of(options.work), "checkpoint_every=20"])
    answers = place / "predictions.json"
    predict = ["-m", "trainer.evaluate", "predict", "--model", str(place / "model"), "--max-new-tokens", "200"]
    execute([*predict, "--data", str(options.work / "data" / "val"), "--out", str(answers)])
    scores = score(read_references(options.work / "references.json"), read_submission(answers), NoJudge())
    found = {
        "accuracy": scores["ungated"]["accuracy"],
        "object_f1": scores["object_f1"]["micro"],
        "steps": steps,
        "questions": steps * per_pack,
        "seconds": json.loads((place / "summary.json").read_text())["seconds"],
    }
    write_atomically(done, (json.dumps(found, indent=2) + "\n").encode())
    return found


def limit_for(sizes: SizeTable, questions_per_visit: int, questions: int) -> tuple[int, float]:
    """Tokens of a pack that holds about so many questions, and how many it holds on average."""
    low, high = int(sizes.prefix.max() + sizes.tokens.max()), int((sizes.prefix.max() + sizes.tokens.max()) * questions)
    while high - low > 16:
        middle = (low + high) // 2
        low, high = (middle, high) if held(sizes, questions_per_visit, middle) < questions else (low, middle)
    return high, held(sizes, questions_per_visit, high)


def held(sizes: SizeTable, questions_per_visit: int, max_tokens: int) -> float:
    """Questions of a pack, on average over an epoch."""
    limits = PackLimits(max_tokens=max_tokens, max_tiles=MAX_TILES)
    stream = PackStream([MixtureEntry(sizes=sizes)], limits, questions_per_visit, 0)
    return len(sizes.tokens) / stream.packs_an_epoch()


def lengths(shards: Path) -> SizeTable:
    """Token counts of the training frames under the tiny tokenizer."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(PARTS / "language", local_files_only=True)
    index = load_index(shards)
    return sample_sizes(
        index, tokenizer=tokenizer, template=internlm2_chat(), layout=VIEW, tokens_per_tile=TOKENS_PER_TILE
    )


def table(runs: Mapping[int, Sequence[Mapping[str, float]]], reference: int) -> dict[int, dict[str, float]]:
    """Mean and deviation over seeds of each setting, its difference to the reference, and what is noise of that.

    The noise is twice the standard error of a difference of two means over seeds.
    """
    rows: dict[int, dict[str, float]] = {}
    for visit, results in runs.items():
        rows[visit] = {"questions": statistics.mean(result["questions"] for result in results)}
        for name in SCORES:
            values = [[result[name] for result in some] for some in (results, runs[reference])]
            means = [statistics.mean(some) for some in values]
            deviations = [statistics.stdev(some) if len(some) > 1 else math.nan for some in values]
            rows[visit] |= {
                name: means[0],
                f"{name} deviation": deviations[0],
                f"{name} difference": means[0] - means[1],
                f"{name} noise": 2
                * math.sqrt(sum(d**2 / len(some) for d, some in zip(deviations, values, strict=True))),
            }
    return rows


def data_of(work: Path) -> str:
    """The training shards as an override."""
    return f"data.datasets=[{{name: driving, path: {work / 'data' / 'train'}}}]"


def train(stage: str, settings: Sequence[str]) -> None:
    """One stage of the demo's recipe with other settings, in one process; goes on from its last checkpoint."""
    files = ["--ds_config", "ds_configs/cpu_zero3.json", "--recipe", f"trainer/recipes/demo_{stage}.yaml"]
    execute(["trainer/run.py", *files, *settings, "image_log_every=0", "data.workers=1"])


def execute(arguments: Sequence[Any]) -> None:
    """Run Python on these arguments from the project's root.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
