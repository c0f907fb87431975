"""An evaluation in, one row of scores for each type and each template of question out, without the gate."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.evaluate.baselines import question_template
from trainer.evaluate.drivelm import Evaluation, bucket_of
from trainer.evaluate.tags import TagMatch
from trainer.evaluate.text_metrics import PairStatistics, bleu_from_counts


def tables(
    evaluation: Evaluation, statistics: PairStatistics, strict: Mapping[str, TagMatch]
) -> dict[str, list[dict[str, Any]]]:
    """`by_type` and `by_template`: rows of scores, frequent ones first.

    A row counts `questions` and `eligible` ones (after the gate), and has of all its questions: `exact` (share of
    answers equal to the reference), `rouge_l` and `bleu_4` (0..1; for a letter little more than equality), `match_f1`
    and `strict_match_f1` with tag 3, `rating` (0..100) where a judge was asked, else None.

    Args:
        evaluation: Q questions.
        statistics: of all Q answers.
        strict: of `strict.strict_matches`.
    """
    types: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    templates: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    known: dict[str, str] = {}
    for place, g in enumerate(evaluation.graded):
        question = g.question.question
        if question not in known:
            known[question] = question_template(question)
        bucket = bucket_of(g.question)
        types[g.question.kind, bucket].append(place)
        templates[known[question], bucket].append(place)

    def rows(groups: Mapping[tuple[str, str], list[int]], name: str) -> list[dict[str, Any]]:
        ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
        return [
            {name: key, "bucket": bucket, **_scores(places, evaluation, statistics, strict)}
            for (key, bucket), places in ordered
        ]

    return {"by_type": rows(types, "type"), "by_template": rows(templates, "template")}


def _scores(
    places: Sequence[int], evaluation: Evaluation, statistics: PairStatistics, strict: Mapping[str, TagMatch]
) -> dict[str, Any]:
    chosen = [evaluation.graded[place] for place in places]
    names = [g.question.id for g in chosen]
    rows = np.asarray(places)
    bleu = bleu_from_counts(
        statistics.guessed[rows].sum(axis=0),
        statistics.correct[rows].sum(axis=0),
        statistics.answer_length[rows].sum(),
        statistics.reference_length[rows].sum(),
    )
    matched = [name for name in names if name in evaluation.f1]
    ratings = evaluation.ratings
    rated = [name for name in names if ratings is not None and name in ratings.values]
    return {
        "questions": len(chosen),
        "eligible": sum(g.eligible for g in chosen),
        "exact": sum(g.answer == g.question.answer for g in chosen) / len(chosen),
        "rouge_l": float(statistics.rouge_l[rows].mean()),
        "bleu_4": float(bleu[-1]),
        "match_f1": sum(evaluation.f1[name] for name in matched) / len(matched) if matched else None,
        "strict_match_f1": sum(strict[name].f1 for name in matched) / len(matched) if matched else None,
        "rating": ratings.mean(rated) if ratings is not None and rated else None,
    }
