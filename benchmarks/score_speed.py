"""Reference cases of DriveLM's evaluation in, seconds to score as many questions as the validation set has out.

    python benchmarks/score_speed.py --cases DIR [--questions 15480] [--repeats 3] [--out FILE]

Answers and references are those of the cases with other coordinates, so that words and lengths are DriveLM's. Measured
are the language metrics on all pairs, part by part, and the whole of `python -m trainer.evaluate score` without a
judge; also `pycocoevalcap` with Java on the same pairs where both are installed. Each is the fastest of the repeats: by
the clock, and in processor time of this process and its children (Java), which other work on the machine disturbs less.
"""

import argparse
import importlib.util
import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from data_shards.atomic import write_json  # noqa: E402
from trainer.evaluate.judge import NoJudge  # noqa: E402
from trainer.evaluate.ptb_java import tokenize_with_java  # noqa: E402
from trainer.evaluate.ptb_tokenizer import tokenize_lines  # noqa: E402
from trainer.evaluate.scorecard import scorecard  # noqa: E402
from trainer.evaluate.submission import KINDS, reference_questions  # noqa: E402
from trainer.evaluate.text_metrics import pair_statistics, rouge_l  # noqa: E402

Seconds = tuple[float, float]
"""By the clock, and of the processor."""

QUESTIONS_A_FRAME, FRAMES_A_SCENE = 19, 6


def main(arguments: list[str]) -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description="Seconds to score DriveLM answers.")
    parser.add_argument("--cases", type=Path, required=True, help="directory of case*/{gt,pred}.json")
    parser.add_argument("--questions", type=int, default=15_480, help="to score (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file of seconds")
    options = parser.parse_args(arguments)
    references, rows = build(options.cases, options.questions, random.Random(0))
    pairs = [(row["answer"], q.answer) for row, q in zip(rows, reference_questions(references), strict=True)]
    seconds = measure(references, rows, pairs, options.repeats)
    for name, (clock, processor) in seconds.items():
        print(f"{name:38} {clock:6.2f} s by the clock, {processor:6.2f} s of processor time")
    if options.out:
        write_json(options.out, {"questions": options.questions, "seconds": seconds})
    return 0


def build(cases: Path, number: int, rng: random.Random) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """References in the test form and predictions for them, drawn from those of the cases by kind."""
    drawn: dict[str, list[tuple[dict[str, Any], str]]] = {kind: [] for kind in KINDS}
    for case in sorted(cases.glob("case*")):
        content = json.loads((case / "gt.json").read_text(encoding="utf-8"))
        answers = {row["id"]: row["answer"] for row in json.loads((case / "pred.json").read_text(encoding="utf-8"))}
        for q in reference_questions(content):
            drawn[q.kind].append(({"Q": q.question, "A": q.answer, "tag": list(q.tags)}, answers[q.id]))
    references: dict[str, Any] = {}
    rows = []
    for start in range(0, number, QUESTIONS_A_FRAME):
        frame = start // QUESTIONS_A_FRAME
        scene, name = f"scene{frame // FRAMES_A_SCENE}", f"frame{frame}"
        kinds = sorted(rng.choices(KINDS[1:], k=min(QUESTIONS_A_FRAME, number - start)), key=KINDS.index)
        kinds[0] = KINDS[0]
        asked: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for place, kind in enumerate(kinds):
            entry, answer = rng.choice(drawn[kind])
            asked[kind].append({name: moved(value, rng) for name, value in entry.items()})
            rows.append({"id": f"{scene}_{name}_{place}", "question": entry["Q"], "answer": moved(answer, rng)})
        references.setdefault(scene, {"key_frames": {}})["key_frames"][name] = {"QA": asked}
    return references, rows


def moved(value: Any, rng: random.Random) -> Any:
    """A text with other coordinates."""
    return re.sub(r"\d+\.\d", lambda _: f"{1600 * rng.random():.1f}", value) if isinstance(value, str) else value


def measure(
    references: dict[str, Any], rows: list[dict[str, str]], pairs: list[tuple[str, str]], repeats: int
) -> dict[str, Seconds]:
    """Seconds by part."""
    answers, expected = [answer for answer, _ in pairs], [reference for _, reference in pairs]
    tokens, wanted = tokenize_lines(answers), tokenize_lines(expected)
    seconds = {
        "tokenizer": fastest(lambda: (tokenize_lines(answers), tokenize_lines(expected)), repeats),
        "BLEU, ROUGE_L and CIDEr": fastest(lambda: pair_statistics(tokens, wanted), repeats),
        "ROUGE_L alone": fastest(lambda: [rouge_l(a, b) for a, b in zip(tokens, wanted, strict=True)], repeats),
        "all of score, without a judge": fastest(lambda: scorecard(references, rows, NoJudge()), repeats),
    }
    if shutil.which("java") and importlib.util.find_spec("pycocoevalcap"):
        seconds |= measure_java(answers, expected, repeats)
    return seconds


def measure_java(answers: list[str], expected: list[str], repeats: int) -> dict[str, Seconds]:
    """Seconds that pycocoevalcap takes for the language metrics of the same pairs."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    tokens = {place: [text] for place, text in enumerate(tokenize_with_java(answers))}
    wanted = {place: [text] for place, text in enumerate(tokenize_with_java(expected))}
    scorers = {"BLEU": Bleu(4), "ROUGE_L": Rouge(), "CIDEr": Cider()}
    seconds = {
        "pycocoevalcap: tokenizer": fastest(
            lambda: (tokenize_with_java(answers), tokenize_with_java(expected)), repeats
        )
    }
    for name, scorer in scorers.items():
        seconds[f"pycocoevalcap: {name}"] = fastest(partial(scorer.compute_score, wanted, tokens), repeats)
    clock, processor = (sum(column) for column in zip(*seconds.values(), strict=True))
    return {**seconds, "pycocoevalcap: all": (clock, processor)}


def fastest(work: Callable[[], object], repeats: int) -> Seconds:
    """Smallest times of several runs, in seconds."""
    clock, processor = [], []
    for _ in range(repeats):
        start, start_processor = time.perf_counter(), processor_time()
        work()
        clock.append(time.perf_counter() - start)
        processor.append(processor_time() - start_processor)
    return min(clock), min(processor)


def processor_time() -> float:
    """Seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
