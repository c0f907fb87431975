"""Options of `python -m trainer.evaluate score` in, a file of scores and an exit status out."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from data_shards.atomic import write_atomically
from trainer.evaluate.baselines import majority_predictions
from trainer.evaluate.drivelm import Evaluation, Tokenize, evaluate
from trainer.evaluate.exact_match import BENCHMARKS, compare_matches, match_answers, match_scores
from trainer.evaluate.intervals import Resampling
from trainer.evaluate.judge import Judge, NoJudge
from trainer.evaluate.judge_cli import add_judge, chosen_judge, refuse_judge, refuse_options
from trainer.evaluate.probes import grounding_gap, option_permutation
from trainer.evaluate.ptb_java import check_installed, tokenize_with_java
from trainer.evaluate.ptb_tokenizer import tokenize_lines
from trainer.evaluate.question_only import question_only_predictions
from trainer.evaluate.score_inputs import named_files, read_predictions, train_questions
from trainer.evaluate.score_summary import summary
from trainer.evaluate.scorecard import compare, scorecard
from trainer.evaluate.submission import SubmissionError, read_json, read_references


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m trainer.evaluate score`."""
    parser.add_argument(
        "--predictions", type=Path, required=True, help="JSON rows {id, question, answer}, plain or wrapped"
    )
    parser.add_argument(
        "--references", type=Path, required=True, help="DriveLM's test form, or the benchmark's rows, JSON"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file of scores to write")
    parser.add_argument(
        "--benchmark", choices=("drivelm", *BENCHMARKS), default="drivelm", help="how to score (default: %(default)s)"
    )
    parser.add_argument(
        "--tokenizer",
        choices=("own", "ptb"),
        default="own",
        help="ptb: by Java and pycocoevalcap (default: %(default)s)",
    )
    parser.add_argument("--resamples", type=int, default=1000, help="of scenes, for intervals (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples (default: %(default)s)")
    beside = parser.add_argument_group("beside the predictions")
    beside.add_argument(
        "--compare", type=Path, metavar="FILE", help="earlier predictions to subtract, such as before stage 2"
    )
    beside.add_argument(
        "--perturbed", nargs="+", default=[], metavar="[NAME=]FILE", help="answers to spoiled views: the grounding gap"
    )
    beside.add_argument(
        "--permuted", nargs="+", default=[], metavar="[NAME=]FILE", help="answers to permuted options, mapped back"
    )
    beside.add_argument(
        "--train", type=Path, metavar="FILE", help="training questions: majority, question-only baselines"
    )
    add_judge(parser)
    parser.add_argument(
        "--judge-eligible-only", action="store_true", help="do not ask about questions that the graph gate drops"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the scores and print a summary; returns 0.

    Raises:
        SubmissionError, JudgeError, TokenizerError: files or options that are not what they should be.
        OSError: the scores cannot be written.
    """
    if arguments.resamples < 1 or arguments.seed < 0:
        raise SubmissionError(
            f"--resamples, --seed: got {arguments.resamples} and {arguments.seed}, expected at least 1 and at least 0"
        )
    scores = _drivelm(arguments) if arguments.benchmark == "drivelm" else _other_benchmark(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out, (json.dumps(_finite(scores), indent=2, allow_nan=False) + "\n").encode())
    print(summary(scores))
    print(f"written to {arguments.out}")
    return 0


def _drivelm(arguments: argparse.Namespace) -> dict[str, Any]:
    judge = chosen_judge(arguments)
    if arguments.judge == "none":
        refuse_options(arguments, ("judge_eligible_only",), "--judge none", "a judge")
    tokenize = _tokenizer(arguments.tokenizer)
    perturbed = named_files(arguments.perturbed, "--perturbed")
    permuted = named_files(arguments.permuted, "--permuted")
    references = read_references(arguments.references)
    rows, problems = read_predictions(arguments.predictions)
    resampling = Resampling(resamples=arguments.resamples, seed=arguments.seed)
    scores, evaluation = scorecard(
        references,
        rows,
        judge,
        tokenize=tokenize,
        resampling=resampling,
        rate_all=not arguments.judge_eligible_only,
        problems=problems,
    )

    def others(path: Path, judge: Judge | NoJudge) -> Evaluation:
        rows, problems = read_predictions(path)
        rate_all = not arguments.judge_eligible_only
        return evaluate(references, rows, judge, tokenize=tokenize, rate_all=rate_all, problems=problems)

    if arguments.compare:
        scores["comparison"] = compare(others(arguments.compare, judge), evaluation, resampling)
    if perturbed:
        gaps = {name: others(path, NoJudge()) for name, path in perturbed.items()}
        scores["diagnosis"]["grounding_gap"] = grounding_gap(evaluation, gaps, resampling)
    if permuted:
        files = [evaluation, *(others(path, NoJudge()) for path in permuted.values())]
        scores["diagnosis"]["option_permutation"] = option_permutation(files)
    if arguments.train:
        train = train_questions(arguments.train)
        baselines = {
            "majority": majority_predictions(train, references),
            "question_only": question_only_predictions(train, references),
        }
        scores["baselines"] = {
            name: {"official": result["official"], "ungated": result["ungated"], "counts": result["counts"]}
            for name, rows in baselines.items()
            for result in [evaluate(references, rows, NoJudge(), tokenize=tokenize).summary()]
        }
    return scores


def _other_benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    beside = f"--benchmark {arguments.benchmark}"
    refuse_options(arguments, ("perturbed", "permuted", "train", "judge_eligible_only"), beside, "drivelm alone")
    refuse_judge(arguments, beside)
    if arguments.tokenizer != "own":
        raise SubmissionError(f"--tokenizer: got it with {beside}, expected it with drivelm alone; leave it out")
    content = read_json(arguments.references)
    rows, problems = read_predictions(arguments.predictions)
    resampling = Resampling(resamples=arguments.resamples, seed=arguments.seed)
    try:
        matched = match_answers(arguments.benchmark, content, rows, problems)
    except SubmissionError as error:
        raise SubmissionError(f"{arguments.references}: {error}") from error
    scores = match_scores(arguments.benchmark, matched, resampling)
    if arguments.compare:
        other = match_answers(arguments.benchmark, content, *read_predictions(arguments.compare))
        scores["comparison"] = compare_matches(other, matched, resampling)
    return scores


def _tokenizer(name: str) -> Tokenize:
    if name == "own":
        return tokenize_lines
    check_installed()
    return tokenize_with_java


def _finite(value: Any) -> Any:
    """NaN, which JSON has not, made null."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
