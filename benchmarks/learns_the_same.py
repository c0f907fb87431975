"""Settings of `questions_per_visit` and seeds in; held-out accuracy after the same number of questions out, as a table.

`python -m benchmarks.learns_the_same [--visits 1 16 32] [--seeds 1 2 3] [--questions 8000] [--work runs/bench/learns]`

Each run is a short stage 2 on the synthetic world, from one model joined of the tiny parts. All see the same number of
questions, in equally many steps of equally many questions; what differs is how many of a step share a frame. What is
done already is kept, so a stopped benchmark goes on with the same command.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from benchmarks.students import ROOT, answer, make_world, side_by_side, train
from data_shards.atomic import write_atomically
from data_shards.chat import internlm2_chat
from data_shards.index import load_index
from data_shards.lengths import sample_sizes
from data_shards.mixture import MixtureEntry, PackLimits, SizeTable
from data_shards.plan import PackStream
from data_shards.view_layout import ViewLayout
from trainer.evaluate.drivelm import score
from trainer.evaluate.judge import NoJudge
from trainer.evaluate.submission import read_references, read_submission

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
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core for each (default: 2)")
    parser.add_argument("--scenes", type=int, default=200, help="to train on; a tenth as many again to ask about")
    parser.add_argument("--work", type=Path, default=Path("runs/bench/learns"))
    options = parser.parse_args(arguments)
    held_out = max(1, options.scenes // 10)
    make_world(options.work / "data", scenes=options.scenes, held_out=held_out, seed=20)
    base = join_parts(options.work, options.align_steps)
    sizes = lengths(options.work / "data" / "driving" / "train")
    plan = [(visit, seed) for seed in options.seeds for visit in options.visits]
    found = side_by_side(options.jobs, lambda one: run(options, base, sizes, *one), plan)
    runs = {
        visit: [result for (own, _), result in zip(plan, found, strict=True) if own == visit]
        for visit in options.visits
    }
    result = {"questions": options.questions, "runs": runs, "table": table(runs, options.visits[0])}
    write_atomically(options.work / "learns_the_same.json", (json.dumps(result, indent=2) + "\n").encode())
    for visit, row in result["table"].items():
        print(f"{visit:>4} questions a visit: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    return 0


def join_parts(work: Path, steps: int) -> Path:
    """The model that every run starts from: tiny tower and language model, and a projector trained for some steps."""
    return train("align", work / "base", [f"steps={steps}", f"model.vision={PARTS / 'teacher-vlm'}", data_of(work)])


def run(
    options: argparse.Namespace, base: Path, sizes: SizeTable, questions_per_visit: int, seed: int
) -> dict[str, float]:
    """Train, answer, score; or the scores of an earlier start."""
    place = options.work / f"visit-{questions_per_visit}-seed-{seed}"
    done = place / "scores.json"
    if done.is_file():
        return json.loads(done.read_text())
    max_tokens, per_pack = limit_for(sizes, questions_per_visit, options.questions_per_step)
    steps = max(1, round(options.questions / per_pack))
    packs = [f"data.questions_per_visit={questions_per_visit}", f"data.max_tokens={max_tokens}"]
    settings = [
        f"model.vlm={base}",
        f"seed={seed}",
        f"steps={steps}",
        f"data.max_tiles={MAX_TILES}",
        "checkpoint_every=0",
    ]
    model = train("finetune", place, [*settings, *packs, data_of(options.work)])
    answers = answer(model, options.work / "data" / "driving" / "val", place / "predictions.json")
    references = read_references(options.work / "data" / "references.json")
    scores = score(references, read_submission(answers), NoJudge())
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
    return f"data.datasets=[{{name: driving, path: {work / 'data' / 'driving' / 'train'}}}]"


if __name__ == "__main__":
    sys.exit(main())
