"""Frames with DriveLM's raw questions in, frames with its tagged test questions and an evaluation's references out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from data_shards.schema import Question, RawFrame, SchemaError, member_suffix
from data_shards.sources.multiple_choice import multiple_choice

KINDS = ("perception", "prediction", "planning", "behavior")
"""DriveLM's order of questions; the numbers in a submission's ids count in it."""

TAG_ACCURACY, TAG_JUDGE, TAG_LANGUAGE, TAG_MATCH = range(4)

_MOVING_STATUS = "what is the moving status of object"
_PLANNING = ("what actions could the ego vehicle take", "lead to a collision", "safe actions")


class SelectionError(ValueError):
    """Frames that hold no test questions, or a split that cannot be made."""


def select_test_questions(frame: RawFrame) -> tuple[Question, ...]:
    """The questions of a key frame that DriveLM's test form keeps, with their tags, in its order.

    The first perception answer that names every key object's description is tagged 2 and the first question on a
    moving status 0; the first prediction answer that holds every key object's tag is tagged 3 and the first other one
    whose text holds "yes" or "no" (also within a word) 0; the first planning question of each of three wordings 1;
    every behaviour question 0. A frame without key objects has no question of tag 2 or 3. The published script tags a
    prediction that is right for both 3 and 0 twice with 0; here it is tagged 3, and the next one 0.

    Raises:
        SchemaError: a key object without `Visual_description`.
    """
    by_kind = {kind: [q for q in frame.questions if q.kind == kind] for kind in KINDS}
    names = [_description(frame.key, tag, info) for tag, info in frame.objects.items()]
    tags = [tag.lower() for tag in frame.objects]
    perception, prediction = by_kind["perception"], by_kind["prediction"]
    naming_all = _first(perception, lambda q: bool(names) and all(name in q.answer.lower() for name in names))
    status = _first(perception, lambda q: _MOVING_STATUS in q.question.lower())
    graph = _first(prediction, lambda q: bool(tags) and all(tag in q.answer.lower() for tag in tags))
    yes_no = _first(
        [q for q in prediction if q not in graph], lambda q: any(word in q.answer.lower() for word in ("yes", "no"))
    )
    planning = _first_of_each(by_kind["planning"], _PLANNING)
    return (
        *_tagged(naming_all, TAG_LANGUAGE),
        *_tagged(status, TAG_ACCURACY),
        *_tagged(graph, TAG_MATCH),
        *_tagged(yes_no, TAG_ACCURACY),
        *_tagged(planning, TAG_JUDGE),
        *_tagged(by_kind["behavior"], TAG_ACCURACY),
    )


def select_test_form(frame: RawFrame, rng: np.random.Generator) -> RawFrame:
    """A frame with its test questions only; moving status and behaviour become multiple choice.

    A frame that has tags already keeps exactly its tagged questions.

    Args:
        frame: its questions in DriveLM's wording.
        rng: draws and orders the options; the published file's own draw was unseeded.
    """
    if any(q.tags for q in frame.questions):
        return replace(frame, questions=tagged_questions(frame))
    return replace(frame, questions=tuple(_with_options(q, rng) for q in select_test_questions(frame)))


def add_test_form(frame: RawFrame, rng: np.random.Generator) -> RawFrame:
    """A frame with its test questions first and then every raw question that is not among them, kind by kind.

    So the tagged questions are exactly those of `select_test_form`; a question that became multiple choice is there
    in its raw form too.
    """
    if any(q.tags for q in frame.questions):
        return frame
    chosen = select_test_questions(frame)
    tested = [_with_options(q, rng) for q in chosen]
    rest = list(frame.questions)
    for plain in (replace(q, tags=()) for q in tested):
        if plain in rest:
            rest.remove(plain)
    kinds = (*KINDS, "general")
    return replace(frame, questions=tuple(q for kind in kinds for q in (*tested, *rest) if q.kind == kind))


def tagged_questions(frame: RawFrame) -> tuple[Question, ...]:
    """The tagged questions of a frame in DriveLM's order; a question's place is the number in its submission id."""
    return tuple(q for kind in KINDS for q in frame.questions if q.kind == kind and q.tags)


def references_json(frames: Iterable[RawFrame]) -> dict[str, Any]:
    """The tagged questions of frames as DriveLM's test file, which an evaluation compares answers with.

    Returns:
        `{scene: {"key_frames": {frame: {"QA": {kind: [{"Q", "A", "tag"}]}, "image_paths", "key_object_infos"}}}}`;
        image paths are names of tar members. Frames without tagged questions are left out.

    Raises:
        SelectionError: no frame has a tagged question.
    """
    scenes: dict[str, Any] = {}
    for frame in frames:
        questions = tagged_questions(frame)
        if questions:
            scene = scenes.setdefault(frame.scene, {"key_frames": {}})
            scene["key_frames"][frame.frame] = _reference(frame, questions)
    if not scenes:
        raise SelectionError(
            "references: got frames without any tagged question, expected DriveLM's test form; write the shards with "
            "`--form test` or `--form both`; general questions become references with `--form rows`"
        )
    return scenes


def split_by_scene(scenes: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Split scenes into training and validation, so that no scene is in both.

    Args:
        scenes: scene names; order and repetition do not matter.
        fraction: share of scenes for validation, above 0 and below 1; at least one scene goes to each side.
        seed: of the draw.

    Returns:
        Training scenes and validation scenes, each sorted.

    Raises:
        SelectionError: fewer than two scenes, or a fraction outside (0, 1).
    """
    unique = sorted(set(scenes))
    if not 0 < fraction < 1:
        raise SelectionError(f"val fraction: got {fraction}, expected a number above 0 and below 1")
    if len(unique) < 2:
        raise SelectionError(f"val fraction: got {len(unique)} scene, expected at least 2: splits are made by scene")
    count = min(len(unique) - 1, max(1, round(fraction * len(unique))))
    chosen = set(np.random.default_rng(seed).permutation(len(unique))[:count].tolist())
    train = [scene for i, scene in enumerate(unique) if i not in chosen]
    return train, [scene for i, scene in enumerate(unique) if i in chosen]


def _first(questions: Iterable[Question], is_wanted: Callable[[Question], bool]) -> list[Question]:
    """The first wanted question as a list of one, or an empty list."""
    return next(([question] for question in questions if is_wanted(question)), [])


def _first_of_each(questions: Iterable[Question], wordings: Iterable[str]) -> list[Question]:
    """The first question that holds each wording, in the questions' order."""
    chosen: list[Question] = []
    open_wordings = list(wordings)
    for question in questions:
        found = [wording for wording in open_wordings if wording in question.question.lower()]
        if found:
            chosen.append(question)
        open_wordings = [wording for wording in open_wordings if wording not in found]
    return chosen


def _reference(frame: RawFrame, questions: Iterable[Question]) -> dict[str, Any]:
    listed: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for q in questions:
        listed[q.kind].append({"Q": q.question, "A": q.answer, "tag": list(q.tags)})
    return {
        "QA": listed,
        "image_paths": {name: f"{frame.key}.{member_suffix(name)}" for name in frame.images},
        "key_object_infos": {tag: dict(info) for tag, info in frame.objects.items()},
    }


def _with_options(question: Question, rng: np.random.Generator) -> Question:
    if question.kind != "behavior" and _MOVING_STATUS not in question.question.lower():
        return question
    text, letter = multiple_choice(question.question, question.answer, rng)
    return replace(question, question=text, answer=letter)


def _tagged(questions: Iterable[Question], tag: int) -> tuple[Question, ...]:
    return tuple(replace(question, tags=(tag,)) for question in questions)


def _description(key: str, tag: str, info: Mapping[str, Any]) -> str:
    text = info.get("Visual_description")
    if not isinstance(text, str):
        raise SchemaError(f"{key}: key object {tag}: field 'Visual_description': got {text!r}, expected text")
    return text.split(".")[0].lower()
