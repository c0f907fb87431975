"""Answers in, what goes wrong with the objects they point at out: camera confusion, invented, left out, copied ones."""

from collections.abc import Iterable, Sequence
from typing import Any

from data_shards.schema import CAMERAS
from trainer.evaluate.drivelm import GradedQuestion
from trainer.evaluate.tags import match_anywhere, match_strictly, meant_tags
from trainer.evaluate.tally import Tally, share


def asks_for_objects(g: GradedQuestion) -> bool:
    """Whether the answer names objects on its own: the frame's first question, and those with tag 3."""
    return g.question.index == 0 or 3 in g.question.tags


def camera_confusion(graded: Iterable[GradedQuestion]) -> dict[str, Any]:
    """Which camera was named for points that match a reference point in pixels (L1 < 16), whatever its camera.

    Returns:
        `cameras`; `matrix`, 6 rows for the reference's camera by 6 columns for the answer's; `matched`,
        `wrong_camera`, `share` and `examples` of the wrong ones.
    """
    place = {camera: number for number, camera in enumerate(CAMERAS)}
    matrix = [[0] * len(CAMERAS) for _ in CAMERAS]
    tally = Tally()
    for g in filter(asks_for_objects, graded):
        for predicted, reference in match_anywhere(meant_tags(g.answer), meant_tags(g.question.answer)).pairs:
            matrix[place[reference.camera]][place[predicted.camera]] += 1
            tally.add("wrong" if predicted.camera != reference.camera else "right", g.question.id)
    wrong, matched = tally.count("wrong"), tally.count("wrong") + tally.count("right")
    return {
        "cameras": list(CAMERAS),
        "matrix": matrix,
        "matched": matched,
        "wrong_camera": wrong,
        "share": share(wrong, matched),
        "examples": tally.examples("wrong"),
    }


def invented_and_left_out(graded: Iterable[GradedQuestion]) -> dict[str, Any]:
    """Hallucination, predicted tags without a partner (1 - precision), and omission, reference ones (1 - recall).

    Over the answers that name objects; `anywhere` matches as officially, `strictly` at the same camera and by L2.
    """
    tally = Tally()
    for g in filter(asks_for_objects, graded):
        predicted, reference = meant_tags(g.answer), meant_tags(g.question.answer)
        tally.add("predicted", g.question.id, len(predicted))
        tally.add("reference", g.question.id, len(reference))
        for how, match in (("anywhere", match_anywhere), ("strictly", match_strictly)):
            num_pairs = len(match(predicted, reference).pairs)
            tally.add(f"hallucination {how}", g.question.id, len(predicted) - num_pairs)
            tally.add(f"omission {how}", g.question.id, len(reference) - num_pairs)
    result: dict[str, Any] = {name: tally.count(name) for name in ("predicted", "reference")}
    for kind, of in (("hallucination", "predicted"), ("omission", "reference")):
        result[kind] = {
            how: {
                "count": tally.count(f"{kind} {how}"),
                "share": share(tally.count(f"{kind} {how}"), tally.count(of)),
                "examples": tally.examples(f"{kind} {how}"),
            }
            for how in ("anywhere", "strictly")
        }
    return result


def copied_tags(graded: Sequence[GradedQuestion]) -> dict[str, Any]:
    """Tags of answers that repeat one of the question, against all predicted ones.

    Returns:
        `predicted` tags in answers, `copied` ones and their `share`; `copied_wrong`, copies that the reference answer
        does not name; `examples` of those; `references`, the share of copies in the reference answers.
    """
    tally = Tally()
    for g in graded:
        asked = {tag.text for tag in meant_tags(g.question.question)}
        expected = {tag.text for tag in meant_tags(g.question.answer)}
        tally.add("expected", g.question.id, len(expected))
        tally.add("expected copy", g.question.id, len(expected & asked))
        for tag in meant_tags(g.answer):
            tally.add("predicted", g.question.id)
            if tag.text in asked:
                tally.add("copied", g.question.id)
                if tag.text not in expected:
                    tally.add("wrong", g.question.id)
    return {
        "predicted": tally.count("predicted"),
        "copied": tally.count("copied"),
        "share": share(tally.count("copied"), tally.count("predicted")),
        "copied_wrong": tally.count("wrong"),
        "examples": tally.examples("wrong"),
        "references": share(tally.count("expected copy"), tally.count("expected")),
    }
