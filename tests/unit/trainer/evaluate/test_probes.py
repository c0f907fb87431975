"""What the answers rest on: the same answers to spoiled views, and to options in another order."""

import pytest

from trainer.evaluate.drivelm import evaluate
from trainer.evaluate.intervals import Resampling
from trainer.evaluate.judge import NoJudge
from trainer.evaluate.probes import grounding_gap, option_permutation

CHOICE = "Which? A. Stop. B. Go."
ROWS = [
    {"Q": CHOICE, "A": "A", "tag": [0]},
    {"Q": CHOICE, "A": "B", "tag": [0]},
    {"Q": "Is it?", "A": "No.", "tag": [0]},
]
REFERENCES = {f"s{i}": {"key_frames": {"f": {"QA": {"behavior": ROWS}}}} for i in range(3)}


def answered(*answers):
    rows = [{"id": f"s{s}_f_{i}", "question": "", "answer": a} for s in range(3) for i, a in enumerate(answers)]
    return evaluate(REFERENCES, rows, NoJudge())


def test_the_gap_is_what_spoiled_views_cost():
    gap = grounding_gap(answered("A", "B", "No."), {"black": answered("A", "A", "Yes.")}, Resampling(resamples=20))
    assert gap["black"]["unchanged"] == pytest.approx(1 / 3)
    row = gap["black"]["scores"]["accuracy"]
    assert (row["before"], row["after"]) == (1.0, pytest.approx(1 / 3))
    assert row["interval"] == pytest.approx([-2 / 3, -2 / 3])


def test_only_an_offered_letter_given_every_time_is_consistent():
    result = option_permutation([answered("A", "A", "No."), answered("A", "B", "Yes.")])
    assert (result["questions"], result["files"], result["consistent"], result["share"]) == (6, 2, 3, 0.5)
    assert result["examples"] == ["s0_f_1", "s1_f_1", "s2_f_1"]
    assert result["always_right"] == 0.5
    assert result["accuracy"] == [0.5, 1.0]
    assert result["letters"] == {"A": 6}
    assert option_permutation([answered("x", "x", ""), answered("x", "x", "")])["consistent"] == 0
