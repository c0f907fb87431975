"""An evaluation in, the strict scores of its points out: same camera and L2, beside the official L1 across cameras."""

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.evaluate.drivelm import Evaluation, GradedQuestion, match_points
from trainer.evaluate.tags import MATCH_DISTANCE, MAX_READ, TagMatch, match_strictly, well_formed_tags


def strict_matches(evaluation: Evaluation) -> dict[str, TagMatch]:
    """Tags of each answer matched strictly, by question id: questions with tag 3 and the first one of each frame."""
    asked = [g for g in evaluation.graded if 3 in g.question.tags or g.question.index == 0]
    return {
        g.question.id: match_strictly(well_formed_tags(g.answer), well_formed_tags(g.question.answer)) for g in asked
    }


def strict_scores(evaluation: Evaluation, matches: Mapping[str, TagMatch]) -> dict[str, Any]:
    """Strict values beside the official ones.

    Returns:
        `match_f1` (tag 3 after the gate), `match` (with the judge's rating as officially), `precision` and `recall`
        over the tags of those answers; `ungated_match_f1`; `graph_f1` and `official_graph_f1`, mean F1 of the frames'
        first answers, whose points open the gate; `distance` in pixels.
    """
    gated = [matches[g.question.id] for g in evaluation.bucket("match")]
    match_f1, official = _mean(match.f1 for match in gated), evaluation.parts()
    rating = None if official["match"] is None else 2 * official["match"] - 100 * official["match_f1"]
    first = [g for g in evaluation.graded if g.question.index == 0]
    num_pairs = sum(len(match.pairs) for match in gated)
    return {
        "distance": MATCH_DISTANCE,
        "match_f1": match_f1,
        "match": None if rating is None else (100 * match_f1 + rating) / 2,
        "precision": num_pairs / max(1, sum(match.num_predicted for match in gated)),
        "recall": num_pairs / max(1, sum(match.num_reference for match in gated)),
        "ungated_match_f1": _mean(matches[g.question.id].f1 for g in evaluation.bucket("match", gated=False)),
        "graph_f1": _mean(matches[g.question.id].f1 for g in first),
        "official_graph_f1": _mean(map(_official_f1, first)),
    }


def _official_f1(g: GradedQuestion) -> float:
    return match_points(g.answer[:MAX_READ], g.question.answer).f1


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
