"""Answers in, what drifts from DriveLM's syntax out: tags that do not parse, letters, yes and no, loops, breaks."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from data_shards.schema import CAMERAS, VIEW_SIZE
from trainer.evaluate.baselines import offered_options
from trainer.evaluate.drivelm import GradedQuestion
from trainer.evaluate.ptb_tokenizer import LINE_BREAK
from trainer.evaluate.tags import BARE_TAG, EXACT_TAG, MAX_READ
from trainer.evaluate.tally import Tally, share

LOOP_TURNS, LOOP_WORDS, LOOP_PERIOD = 4, 8, 20
"""A loop: the answer ends in at least so many turns and so many words, with a period of at most so many words."""

_TAG_LIKE = re.compile(
    r"<[^<>\n]{0,80}>|<c[^<>\n]{0,80}$"
    rf"|[<(\[]\s{{0,3}}c?\s{{0,3}}\d+\s{{0,3}},\s{{0,3}}CAM[^<>()\[\]\n]{{0,80}}[>)\]]?|{BARE_TAG}",
    re.IGNORECASE,
)
_INTEGER = re.compile(r",\s*\d+\s*(?=[,>)\]]|$)")
_CAMERA = re.compile(r"CAM_?[A-Z_]*", re.IGNORECASE)
_YES_NO = re.compile(r"\W*(yes|no)\W*", re.IGNORECASE)


def syntax_drift(graded: Sequence[GradedQuestion]) -> dict[str, Any]:
    """Counts over all answers.

    Returns:
        `spans` tag-like spans, `failing` those that are no tag to the letter and their `share`; `answers`; `kinds`,
        {kind: {count, examples}}, of spans integer, spaced, bracketed, bare, truncated, unknown_camera, other_form,
        out_of_view, and of answers duplicate_id, letter, yes_no, loop, line_break, empty, long.
    """
    tally = Tally()
    num_spans = num_failing = 0
    for g in graded:
        text = g.answer[:MAX_READ]
        numbers = []
        if "<" in text or "CAM" in text.upper():
            for match in _TAG_LIKE.finditer(text):
                num_spans += 1
                tag = EXACT_TAG.fullmatch(match[0])
                kinds = list(_span_failures(match[0])) if tag is None else []
                num_failing += bool(kinds)
                if tag is not None:
                    numbers.append(match[0])
                    if float(tag[1]) > VIEW_SIZE[0] or float(tag[2]) > VIEW_SIZE[1]:
                        kinds.append("out_of_view")
                for kind in kinds:
                    tally.add(kind, g.question.id)
        if len({tag.split(",", 1)[0] for tag in numbers}) < len(set(numbers)):
            tally.add("duplicate_id", g.question.id)
        for kind in _answer_failures(g):
            tally.add(kind, g.question.id)
    return {
        "answers": len(graded),
        "spans": num_spans,
        "failing": num_failing,
        "share": share(num_failing, num_spans),
        "kinds": tally.rows(),
    }


def _span_failures(span: str) -> Iterator[str]:
    """Why a span is no tag; at least one reason."""
    is_bare = span[0] in "cC"
    reasons = {
        "bracketed": span[0] in "([" or span[-1] in ")]",
        "bare": is_bare,
        "truncated": not is_bare and span[-1] not in ">)]",
        "spaced": any(character.isspace() for character in span),
        "integer": _INTEGER.search(span) is not None,
        "unknown_camera": not any(camera in CAMERAS for camera in _CAMERA.findall(span)),
    }
    yield from (kind for kind, holds in reasons.items() if holds)
    if not any(reasons.values()):
        yield "other_form"


def _answer_failures(g: GradedQuestion) -> Iterator[str]:
    text = g.answer[:MAX_READ]
    if not text.strip():
        yield "empty"
    if len(g.answer) > MAX_READ:
        yield "long"
    if LINE_BREAK.search(text):
        yield "line_break"
    options = offered_options(g.question.question)
    if options and text not in options:
        yield "letter"
    meant = _YES_NO.fullmatch(text)
    if meant and text != f"{meant[1].capitalize()}.":
        yield "yes_no"
    if is_loop(text):
        yield "loop"


def is_loop(text: str) -> bool:
    """Whether a text ends by saying the same again and again; its last word can be cut off."""
    words = text.split()
    if len(words) < LOOP_WORDS:
        return False
    for ending in (words, words[:-1]):
        for period in range(1, LOOP_PERIOD + 1):
            length = max(LOOP_TURNS * period, LOOP_WORDS)
            if len(ending) < length or ending[-1] != ending[-1 - period]:
                continue
            if ending[-length:-period] == ending[-length + period :]:
                return True
    return False
