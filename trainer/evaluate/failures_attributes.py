"""Answers in, wrong attributes of objects that were found out: class and colour of listed ones, moving status."""

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.evaluate.baselines import offered_options
from trainer.evaluate.drivelm import GradedQuestion
from trainer.evaluate.objects import class_and_colour, described_phrases, is_object_question
from trainer.evaluate.submission import object_infos
from trainer.evaluate.tags import MAX_READ, Tag, match_strictly, meant_tags
from trainer.evaluate.tally import Tally, share

STATUS_QUESTION = "moving status of object"


def attribute_errors(graded: Iterable[GradedQuestion], references: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`class`, `colour` and `status`: {checked, wrong, share, examples}.

    Class and colour are of objects listed by the answer to a frame's object question that match one of the reference
    strictly (same camera, L2). What they are comes from the frame's `key_object_infos` where the references have them,
    else from the reference answer. The status is that of the moving-status questions, by its text, not its letter.
    """
    tally = Tally()
    for g in graded:
        if is_object_question(g.question.question):
            infos = _descriptions(references, g)
            described, expected = _described(g.answer), _described(g.question.answer, infos)
            for predicted, reference in match_strictly(list(described), list(expected)).pairs:
                for name, got, wanted in zip(
                    ("class", "colour"), described[predicted], expected[reference], strict=True
                ):
                    if got and wanted:
                        tally.add(name, g.question.id)
                        tally.add(f"{name} wrong", g.question.id, int(got != wanted))
        elif STATUS_QUESTION in g.question.question and g.answer.strip():
            options = offered_options(g.question.question)
            got, wanted = (options.get(text.strip(), text.strip()) for text in (g.answer, g.question.answer))
            tally.add("status", g.question.id)
            tally.add("status wrong", g.question.id, int(got != wanted))
    return {
        name: {
            "checked": tally.count(name),
            "wrong": tally.count(f"{name} wrong"),
            "share": share(tally.count(f"{name} wrong"), tally.count(name)),
            "examples": tally.examples(f"{name} wrong"),
        }
        for name in ("class", "colour", "status")
    }


def _described(answer: str, infos: Mapping[str, str] | None = None) -> dict[Tag, tuple[str, str]]:
    """Class and colour by tag: from `infos`, visual description by tag, else from the description of the same place."""
    phrases = [words for _, words in described_phrases(answer[:MAX_READ])]
    tags = meant_tags(answer)
    result = {}
    for place, tag in enumerate(tags):
        info = (infos or {}).get(tag.text)
        words = info.lower().rstrip(".").split() if info else phrases[place] if place < len(phrases) else []
        result[tag] = class_and_colour(words)
    return result


def _descriptions(references: Mapping[str, Any], g: GradedQuestion) -> dict[str, str]:
    """Visual description by tag, as far as the frame's `key_object_infos` have it."""
    infos = object_infos(references, g.question)
    found = {tag: info.get("Visual_description") for tag, info in infos.items()}
    return {tag: description for tag, description in found.items() if isinstance(description, str)}
