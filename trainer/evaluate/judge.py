"""A judge's name in, a judge out: what rates an answer against its reference from 0 to 100 in place of GPT."""

import math
import re
from dataclasses import dataclass
from typing import Protocol

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class JudgeError(ValueError):
    """A judge that is not known; the message names what was got, what was expected and an example."""


class Judge(Protocol):
    """Rates answers."""

    def reply(self, answer: str, reference: str) -> str:
        """The reply, text that should be a number in 0..100."""


class NoJudge:
    """In place of a judge: the scores that need one are left out."""


@dataclass(frozen=True, kw_only=True)
class ConstantJudge:
    """Gives every answer the same rating, 0..100."""

    rating: float

    def reply(self, answer: str, reference: str) -> str:
        """The rating as text."""
        return str(self.rating)


class JaccardJudge:
    """Rates common words: 100 |A & G| // |A | G| over the sets of lower-cased words, 100 where both are empty."""

    def reply(self, answer: str, reference: str) -> str:
        """The rating as text."""
        answer_words, reference_words = set(answer.lower().split()), set(reference.lower().split())
        union = answer_words | reference_words
        return str(100 * len(answer_words & reference_words) // len(union) if union else 100)


def parse_judge(name: str) -> Judge | NoJudge:
    """`none`, `const:X` with X in 0..100, or `jaccard`.

    Raises:
        JudgeError: any other name.
    """
    if name == "none":
        return NoJudge()
    if name == "jaccard":
        return JaccardJudge()
    kind, _, value = name.partition(":")
    try:
        rating = float(value) if kind == "const" else math.nan
    except ValueError:
        rating = math.nan
    if not 0 <= rating <= 100:
        raise JudgeError(f"--judge: got {name!r}, expected none, jaccard or const:X with X in 0..100, such as const:50")
    return ConstantJudge(rating=rating)


def parse_reply(reply: str) -> tuple[float, bool]:
    """The rating in a reply, and whether the reply was a plain finite number (the original evaluation fails on others).

    From other text the first number counts, at most as 100; without one the rating is 0.
    """
    try:
        rating = float(reply)
    except ValueError:
        found = _NUMBER.search(reply)
        return (min(float(found[0]), 100.0) if found else 0.0), False
    return (rating, True) if math.isfinite(rating) else (0.0, False)
