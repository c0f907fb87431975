"""Syntax drift: each kind of it alone, clean answers, and loops."""

import pytest

from trainer.evaluate.drivelm import GradedQuestion
from trainer.evaluate.failures_syntax import is_loop, syntax_drift
from trainer.evaluate.submission import ReferenceQuestion

TAG = "<c1,CAM_FRONT,800.0,450.0>"
CHOICE = "Which? A. Left. B. Right."


def graded(answer, question="What?", name="s_f_0"):
    asked = ReferenceQuestion(
        id=name, scene="s", frame="f", index=0, kind="perception", question=question, answer="", tags=()
    )
    return GradedQuestion(question=asked, answer=answer, eligible=True)


def kinds(answer, question="What?"):
    return {kind: row["count"] for kind, row in syntax_drift([graded(answer, question)])["kinds"].items()}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"A car {TAG} and {TAG}.", {}),
        ("<c1,CAM_FRONT,800,450>", {"integer": 1}),
        ("<c1, CAM_FRONT,800.0,450.0>", {"spaced": 1}),
        ("(c1,CAM_FRONT,800.0,450.0)", {"bracketed": 1}),
        ("A car c1,CAM_FRONT,800.0,450.0 ahead.", {"bare": 1}),
        ("C1, CAM_FRONT, 800, 450", {"bare": 1, "spaced": 1, "integer": 1}),
        ("{c1,CAM_FRONT,800.0,450.0}", {"bare": 1}),
        ("The objects are c1 and c2.", {}),
        ("It is <c1,CAM_FRONT,800.0,4", {"truncated": 1, "integer": 1}),
        ("<c1,CAM_TOP,800.0,450.0>", {"unknown_camera": 1}),
        ("<c1,CAM_FRONT,800.00,450.0>", {"other_form": 1}),
        ("<c1,CAM_FRONT,1800.0,450.0>", {"out_of_view": 1}),
        (f"{TAG} <c1,CAM_BACK,1.0,2.0>", {"duplicate_id": 1}),
        ("yes", {"yes_no": 1}),
        ("Yes.", {}),
        ("a\rb", {"line_break": 1}),
        (" ", {"empty": 1}),
    ],
)
def test_each_drift_has_its_name(answer, expected):
    assert kinds(answer) == expected


@pytest.mark.parametrize(("answer", "expected"), [("A", {}), ("C", {"letter": 1}), ("A.", {"letter": 1})])
def test_a_choice_wants_one_of_its_letters(answer, expected):
    assert kinds(answer, CHOICE) == expected


def test_the_share_is_of_tag_like_spans_and_examples_are_ids():
    result = syntax_drift([graded(TAG), graded("<c1,CAM_FRONT,8,4>", name="s_f_7")])
    assert (result["spans"], result["failing"], result["share"]) == (2, 1, 0.5)
    assert result["kinds"]["integer"]["examples"] == ["s_f_7"]
    assert syntax_drift([])["share"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stop " * 8, True),
        ("Then it turns left. " * 5 + "Then it", True),
        ("It goes on and " + "on and " * 12 + "o", True),
        ("The car, the bus, the van and the truck are stopped here.", False),
        ("no no no", False),
        ("", False),
    ],
)
def test_a_loop_is_an_ending_said_again_and_again(text, expected):
    assert is_loop(text) is expected


def test_a_huge_answer_is_named_and_read_only_to_a_limit():
    assert kinds("<c1,CAM_FRONT" * 500_000)["long"] == 1
