"""References and predictions in, everything `python -m trainer.evaluate score` writes for DriveLM out."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.evaluate.by_question import tables
from trainer.evaluate.diagnosis import diagnose
from trainer.evaluate.drivelm import Evaluation, Tokenize, evaluate
from trainer.evaluate.drivelm_sums import scene_sums, scores_from_sums
from trainer.evaluate.intervals import LEVEL, Resampling, comparison, draw_scenes, nested, score_intervals
from trainer.evaluate.judge import Judge, NoJudge
from trainer.evaluate.ptb_tokenizer import tokenize_lines
from trainer.evaluate.strict import strict_matches, strict_scores
from trainer.evaluate.submission import Problem, count_problems
from trainer.evaluate.tags import MAX_READ
from trainer.evaluate.text_metrics import pair_statistics


def scorecard(
    references: Mapping[str, Any],
    predictions: Sequence[Any],
    judge: Judge | NoJudge,
    *,
    tokenize: Tokenize = tokenize_lines,
    resampling: Resampling | None = None,
    rate_all: bool = True,
    problems: Sequence[Problem] = (),
) -> tuple[dict[str, Any], Evaluation]:
    """What `drivelm.score` returns, and `strict`, `by_type`, `by_template`, `intervals`, `diagnosis`.

    Args:
        references, predictions, judge, tokenize, rate_all, problems: as for `drivelm.evaluate`.
        resampling: of the intervals.

    Raises:
        SubmissionError: the references are not of the test form.
    """
    evaluation = evaluate(references, predictions, judge, tokenize=tokenize, rate_all=rate_all, problems=problems)
    strict = strict_matches(evaluation)
    answers = tokenize_lines([g.answer[:MAX_READ] for g in evaluation.graded])
    expected = tokenize_lines([g.question.answer for g in evaluation.graded])
    result = evaluation.summary()
    failures = result.pop("failures")
    result |= {
        "benchmark": "drivelm",
        "strict": strict_scores(evaluation, strict),
        "intervals": _intervals(evaluation, resampling or Resampling()),
        **tables(evaluation, pair_statistics(answers, expected), strict),
        "diagnosis": diagnose(evaluation, references),
        "failures": failures,
    }
    return result, evaluation


def compare(before: Evaluation, after: Evaluation, resampling: Resampling) -> dict[str, Any]:
    """Scores without the gate of two predictions for the same questions, see `intervals.comparison`.

    The gate lets other questions through for each of them, so gated scores do not compare. `failures` counts those of
    `before` and `after`: answers that one of them lacks count as empty ones.
    """
    first, second = (scene_sums(e, strict_matches(e), gated=False) for e in (before, after))
    failures = {"before": count_problems(before.failures), "after": count_problems(after.failures)}
    return {**comparison(first, second, scores_from_sums, resampling), "failures": failures}


def _intervals(evaluation: Evaluation, resampling: Resampling) -> dict[str, Any]:
    strict = strict_matches(evaluation)
    gated, ungated = (scene_sums(evaluation, strict, gated=gated) for gated in (True, False))
    counts = draw_scenes(len(gated.values), resamples=resampling.resamples, seed=resampling.seed)
    return {
        "level": LEVEL,
        "resamples": resampling.resamples,
        "seed": resampling.seed,
        "scenes": len(gated.values),
        "official": nested(score_intervals(gated, scores_from_sums, counts)),
        "ungated": nested(score_intervals(ungated, scores_from_sums, counts)),
    }
