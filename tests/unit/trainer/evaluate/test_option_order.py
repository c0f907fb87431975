"""Options in another order, and letters mapped back."""

import numpy as np
import pytest

from data_shards.sources.multiple_choice import MOTIONS, multiple_choice
from trainer.evaluate.baselines import offered_options
from trainer.evaluate.option_order import original_letter, permute_options


def test_every_permuted_letter_stands_for_the_same_text():
    rng = np.random.default_rng(0)
    for number in range(40):
        question, letter = multiple_choice("What is the moving status?", MOTIONS[number % len(MOTIONS)], rng)
        before = offered_options(question)
        permuted = permute_options(question, seed=number, name="s_f/0")
        after = offered_options(permuted.question)
        assert permuted.question != question
        assert permuted.question.split("A. ")[0] == question.split("A. ")[0]
        assert {shown: before[original] for shown, original in permuted.letters.items()} == after
        shown = next(shown for shown, text in after.items() if text == before[letter])
        assert original_letter(f" {shown}\n", permuted.letters) == letter


def test_seed_and_name_decide_the_order():
    question, _ = multiple_choice("What?", MOTIONS[0], np.random.default_rng(1))
    orders = {permute_options(question, seed=s, name=n).question for s in range(5) for n in ("a", "b")}
    assert len(orders) > 3
    assert permute_options(question, seed=2, name="a") == permute_options(question, seed=2, name="a")


@pytest.mark.parametrize("question", ["Is it?", "", "Say A. Nothing more"])
def test_other_questions_stay_as_they_are(question):
    permuted = permute_options(question, seed=0, name="a")
    assert permuted.question == question
    assert permuted.letters == {}


def test_an_answer_that_is_no_letter_stays_as_it_is():
    assert original_letter("Going ahead.", {"A": "B", "B": "A"}) == "Going ahead."
    assert original_letter("B", {}) == "B"
