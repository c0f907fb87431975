"""A multiple-choice question in, the same question with its options in another order out, and letters mapped back.

A model that reads its options answers with the same text whatever their order; one that has a favourite letter does
not.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainer.evaluate.baselines import offered_options


@dataclass(frozen=True, kw_only=True)
class PermutedQuestion:
    """A question as it is asked.

    Attributes:
        question: with its options in the new order.
        letters: letter shown to letter of the original question; empty where it offers no options.
    """

    question: str
    letters: Mapping[str, str]


def permute_options(question: str, *, seed: int, name: str) -> PermutedQuestion:
    """Shuffle the options of a multiple choice; any other question stays as it is.

    Args:
        question: ends with `A. ... B. ...`, as `baselines.offered_options` reads it.
        seed: 0 or more.
        name: what identifies the question; with the seed it decides the order, which is never the original one.
    """
    options = offered_options(question)
    if not options:
        return PermutedQuestion(question=question, letters={})
    letters = list(options)
    listed = _listed(options, letters)
    if not question.endswith(listed):  # other text between or behind the options: no order but its own is safe
        return PermutedQuestion(question=question, letters={letter: letter for letter in letters})
    order = _draw_order(letters, seed, name)
    shuffled = dict(zip(letters, (options[letter] for letter in order), strict=True))
    return PermutedQuestion(
        question=question.removesuffix(listed) + _listed(shuffled, letters),
        letters=dict(zip(letters, order, strict=True)),
    )


def original_letter(answer: str, letters: Mapping[str, str]) -> str:
    """An answer's letter in the original order; an answer that is no letter shown stays as it is."""
    return letters.get(answer.strip(), answer)


def _listed(options: Mapping[str, str], letters: list[str]) -> str:
    return " ".join(f"{letter}. {options[letter]}" for letter in letters)


def _draw_order(letters: list[str], seed: int, name: str) -> list[str]:
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
    while True:
        order = [letters[i] for i in rng.permutation(len(letters))]
        if order != letters:
            return order
