"""An evaluation in, per-scene sums of everything its scores are made of out, and the scores from such sums."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from trainer.evaluate.drivelm import FINAL_WEIGHTS, Evaluation, GradedQuestion
from trainer.evaluate.intervals import Columns, Floats, SceneSums, sum_by_scene
from trainer.evaluate.tags import TagMatch
from trainer.evaluate.text_metrics import MAX_ORDER, bleu_from_counts

_ORDERS = range(1, MAX_ORDER + 1)


def scene_sums(evaluation: Evaluation, strict: Mapping[str, TagMatch], *, gated: bool) -> SceneSums:
    """Sums by scene; `strict` is of `strict.strict_matches`, `gated` leaves out the questions that the gate drops."""
    graded = evaluation.graded
    accuracy, chatgpt, language, match = (
        np.array([tag in g.question.tags and (g.eligible or not gated) for g in graded], float) for tag in range(4)
    )
    statistics, described = evaluation.language[0 if gated else 1], language > 0
    rating, is_rated = _ratings(evaluation, gated=gated)
    columns: dict[str, Floats] = {
        "accuracy_n": accuracy,
        "accuracy": accuracy * [g.answer == g.question.answer for g in graded],
        "chatgpt_n": chatgpt * is_rated,
        "chatgpt": chatgpt * rating,
        "match_n": match,
        "match_f1": match * [evaluation.f1.get(g.question.id, 0.0) for g in graded],
        "strict_f1": match * _strict_f1(graded, strict),
        "rating_n": match * is_rated,
        "rating": match * rating,
        "language_n": language,
        "rouge_l": _spread(statistics.rouge_l, described),
        "cider": _spread(statistics.cider, described),
        "answer_length": _spread(statistics.answer_length, described),
        "reference_length": _spread(statistics.reference_length, described),
    }
    for order in _ORDERS:
        columns[f"guessed_{order}"] = _spread(statistics.guessed[:, order - 1], described)
        columns[f"correct_{order}"] = _spread(statistics.correct[:, order - 1], described)
    return sum_by_scene([g.question.scene for g in graded], columns)


def scores_from_sums(sums: Columns) -> dict[str, Floats]:
    """Official scores, `match_f1` and `strict_match_f1` from sums [...]; NaN where there is nothing to score.

    The final score counts a bucket without any question as 0, as the official one here does; it is NaN without ratings,
    and in a resample that happens to have none of a bucket's questions.
    """
    bleu = bleu_from_counts(
        np.stack([sums[f"guessed_{order}"] for order in _ORDERS], axis=-1),
        np.stack([sums[f"correct_{order}"] for order in _ORDERS], axis=-1),
        sums["answer_length"],
        sums["reference_length"],
    )
    bleu = np.where((sums["language_n"] > 0)[..., None], bleu, np.nan)
    rouge_l, cider = _ratio(sums, "rouge_l", "language_n"), _ratio(sums, "cider", "language_n")
    match_f1 = _ratio(sums, "match_f1", "match_n")
    match = (100 * match_f1 + _ratio(sums, "rating", "rating_n")) / 2
    parts = {
        "chatgpt": _ratio(sums, "chatgpt", "chatgpt_n") / 100,
        "language": (bleu.mean(axis=-1) + rouge_l + cider / 10) / 3,
        "match": match / 100,
        "accuracy": _ratio(sums, "accuracy", "accuracy_n"),
    }
    is_judged = (sums["chatgpt_n"] > 0) | (sums["rating_n"] > 0)
    final = sum(
        weight * (0.0 if np.isnan(parts[name]).all() else parts[name]) for name, weight in FINAL_WEIGHTS.items()
    )
    return {
        "accuracy": parts["accuracy"],
        "chatgpt": 100 * parts["chatgpt"],
        **{f"language.bleu_{order}": bleu[..., order - 1] for order in _ORDERS},
        "language.rouge_l": rouge_l,
        "language.cider": cider,
        "match": match,
        "match_f1": match_f1,
        "strict_match_f1": _ratio(sums, "strict_f1", "match_n"),
        "final": np.where(is_judged, final, np.nan),
    }


def _spread(values: npt.ArrayLike, described: npt.NDArray[np.bool_]) -> Floats:
    """Values of the described questions at their places among all, 0 elsewhere."""
    column = np.zeros(len(described))
    column[described] = values
    return column


def _ratio(sums: Columns, name: str, number: str) -> Floats:
    total = np.asarray(sums[name], float)
    return np.divide(total, sums[number], out=np.full(total.shape, np.nan), where=np.asarray(sums[number]) > 0)


def _ratings(evaluation: Evaluation, *, gated: bool) -> tuple[Floats, Floats]:
    """Rating of each question (0 without one), and whether it has one; none where no mean can be had."""
    ratings = evaluation.ratings
    is_usable = ratings is not None and not ratings.is_given_up and (gated or ratings.of_all)
    values = ratings.values if ratings is not None and is_usable else {}
    names = [g.question.id for g in evaluation.graded]
    return np.array([values.get(name, 0.0) for name in names]), np.array([name in values for name in names], float)


def _strict_f1(graded: Sequence[GradedQuestion], strict: Mapping[str, TagMatch]) -> Floats:
    return np.array([strict[g.question.id].f1 if g.question.id in strict else 0.0 for g in graded], float)
