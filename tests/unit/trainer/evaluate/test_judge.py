"""Judges by name, and replies that are numbers or not."""

import json
import math

import pytest

from tests.helpers.paths import DRIVELM_EVAL_CASES, needs_drivelm_eval_cases
from trainer.evaluate.judge import JudgeError, NoJudge, parse_judge, parse_reply


@needs_drivelm_eval_cases
def test_replies_are_read_as_the_original_reads_them_and_others_are_told():
    rows = json.loads((DRIVELM_EVAL_CASES / "unit_gpt_reply.json").read_text())
    assert len(rows) == 13
    for row in rows:
        rating, is_plain = parse_reply(row["reply"])
        is_number = row["float"] not in ("ValueError", "nan", "inf")
        assert is_plain == is_number
        assert math.isfinite(rating)
        if is_number:
            assert rating == float(row["float"])


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Score: 62", 62.0),
        ("62/100", 62.0),
        ("", 0.0),
        ("1000 points", 100.0),
        ("Rating (0-100): 85", 85.0),
        ("on a scale of 0 to 100 I say 70.5", 70.5),
        ("between 0 and 100: 85", 85.0),
        ("1-100", 1.0),
        ("80 - 90", 80.0),
        ("85 - 2 of the 3 objects agree", 85.0),
    ],
)
def test_the_first_number_of_a_wordy_reply_counts(reply, rating):
    assert parse_reply(reply) == (rating, False)


@pytest.mark.parametrize(
    ("answer", "reference", "reply"),
    [("Turn left", "turn right", "33"), ("", "", "100"), ("a b", "B A", "100"), ("a", "b", "0")],
)
def test_jaccard_rates_common_words(answer, reference, reply):
    assert parse_judge("jaccard").reply(answer, reference) == reply


def test_constant_and_absent_judges():
    assert float(parse_judge("const:62.5").reply("a", "b")) == 62.5
    assert isinstance(parse_judge("none"), NoJudge)


@pytest.mark.parametrize("name", ["", "const", "const:", "const:x", "const:101", "const:-1", "const:nan", "gpt"])
def test_an_unknown_judge_is_refused_with_the_known_ones(name):
    with pytest.raises(JudgeError, match="expected none, jaccard or const:X"):
        parse_judge(name)


@pytest.mark.parametrize(("reply", "rating"), [("150", 100.0), ("-5", 0.0), ("nan", 0.0)])
def test_numbers_outside_of_the_scale_are_told(reply, rating):
    assert parse_reply(reply) == (rating, False)
