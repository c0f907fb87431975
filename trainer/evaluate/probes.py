"""Evaluations of several predictions for the same questions in, what the answers rest on out: views, option order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.evaluate.baselines import offered_options
from trainer.evaluate.drivelm import Evaluation
from trainer.evaluate.intervals import Resampling
from trainer.evaluate.scorecard import compare
from trainer.evaluate.submission import count_problems
from trainer.evaluate.tally import Tally, share


def grounding_gap(
    normal: Evaluation, perturbed: Mapping[str, Evaluation], resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """What spoiled views cost: {name: {unchanged, scores}}.

    `unchanged` is the share of questions with the very same answer; `scores` is of `scorecard.compare`, before being
    the normal views. A difference of nearly nothing says that the answers do not come from the views.
    """
    return {
        name: {
            "unchanged": share(
                sum(a.answer == b.answer for a, b in zip(normal.graded, other.graded, strict=True)), len(normal.graded)
            ),
            **compare(normal, other, resampling),
        }
        for name, other in perturbed.items()
    }


def option_permutation(files: Sequence[Evaluation]) -> dict[str, Any]:
    """Whether multiple choice is answered alike whatever the order of its options.

    Args:
        files: the normal order first; letters of the others are those of the normal order (as `predict
            --permute-options` writes them).

    Returns:
        `questions` that offer options, `files`, `consistent` ones (the same offered letter in all files)
        and their `share`, `examples` of others, `always_right`, the share answered rightly in all files, `accuracy` and
        counted `failures` of each file, `letters` chosen in the first one.
    """
    tally = Tally()
    letters: Counter[str] = Counter()
    right = [0] * len(files)
    for rows in zip(*(evaluation.graded for evaluation in files), strict=True):
        question = rows[0].question
        options = offered_options(question.question)
        if not options:
            continue
        answers = [g.answer.strip() for g in rows]
        letters[answers[0] if answers[0] in options else "other"] += 1
        tally.add("question", question.id)
        tally.add("consistent" if len(set(answers)) == 1 and answers[0] in options else "inconsistent", question.id)
        tally.add("always right", question.id, int(all(answer == question.answer for answer in answers)))
        right = [count + (answer == question.answer) for count, answer in zip(right, answers, strict=True)]
    number = tally.count("question")
    return {
        "questions": number,
        "files": len(files),
        "consistent": tally.count("consistent"),
        "share": share(tally.count("consistent"), number),
        "examples": tally.examples("inconsistent"),
        "always_right": share(tally.count("always right"), number),
        "accuracy": [share(count, number) for count in right],
        "failures": [count_problems(evaluation.failures) for evaluation in files],
        "letters": dict(sorted(letters.items())),
    }
