"""Frames in, the questions that a model is asked to be scored, and their references as plain rows, out."""

from collections.abc import Iterable

from data_shards.schema import RawFrame
from data_shards.sources.drivelm_select import KINDS, SelectionError


def question_order(frame: RawFrame) -> list[int]:
    """Indices of the questions of a frame that are asked; a place in this list is the number in a submission's id.

    First DriveLM's tagged ones, by kind as DriveLM counts them, then general ones, which need no tag.
    """
    numbered = list(enumerate(frame.questions))
    tagged = [i for kind in KINDS for i, q in numbered if q.kind == kind and q.tags]
    return tagged + [i for i, q in numbered if q.kind == "general"]


def reference_rows(frames: Iterable[RawFrame]) -> list[dict[str, str]]:
    """Every asked question as a row {id, question, answer, type, scene}; the type of a general one is its source.

    Raises:
        SelectionError: no frame asks anything.
    """
    rows = []
    for frame in frames:
        for place, number in enumerate(question_order(frame)):
            question = frame.questions[number]
            kind = frame.source if question.kind == "general" else question.kind
            texts = {"question": question.question, "answer": question.answer}
            rows.append({"id": f"{frame.key}_{place}", **texts, "type": kind, "scene": frame.scene})
    if not rows:
        raise SelectionError("references: got frames without any tagged or general question, expected at least one")
    return rows
