"""Other benchmarks: NuScenes-QA's file and plain rows, letters in many forms, tables and comparisons."""

import pytest

from trainer.evaluate.exact_match import benchmark_questions, compare_matches, match_answers, match_scores
from trainer.evaluate.intervals import Resampling
from trainer.evaluate.submission import SubmissionError

FEW = Resampling(resamples=20)
NUSCENES_QA = {
    "questions": [
        {"sample_token": "t1", "question": "Are there cars?", "answer": "yes", "template_type": "exist", "num_hop": 0},
        {"sample_token": "t1", "question": "How many?", "answer": "3", "template_type": "count", "num_hop": 1},
        {"sample_token": "t2", "question": "How many?", "answer": "0", "template_type": "count", "num_hop": 0},
    ]
}
CHOICES = [
    {"id": "q0", "question": "Where?", "answer": "B", "options": ["Left", "Right"], "type": "spatial"},
    {"id": "q1", "question": "Which? A. Stop. B. Go. C. Turn.", "answer": "C", "type": "planning"},
]


def answers(**given):
    return [{"id": name, "question": "", "answer": answer} for name, answer in given.items()]


def scores(benchmark, content, rows):
    return match_scores(benchmark, match_answers(benchmark, content, rows), FEW)


def test_nuscenes_qa_is_scored_by_type_and_hop():
    result = scores("exact-match", NUSCENES_QA, answers(t1_0="Yes.", t1_1="4", t2_0="0"))
    assert result["official"]["accuracy"] == pytest.approx(2 / 3)
    assert result["strict"]["accuracy"] == pytest.approx(1 / 3)
    assert result["by_type"] == [
        {"type": "count", "questions": 2, "accuracy": 0.5},
        {"type": "exist", "questions": 1, "accuracy": 1.0},
    ]
    assert [(row["hop"], row["accuracy"]) for row in result["by_hop"]] == [("0", 1.0), ("1", 0.0)]
    assert len(result["by_type_and_hop"]) == 3
    assert result["intervals"]["scenes"] == 2
    assert result["failures"] == []


@pytest.mark.parametrize("answer", ["B", "b", "B.", "(B)", "B. Right", "The answer is: B", "Right", "right."])
def test_a_choice_is_read_from_many_forms(answer):
    assert scores("multiple-choice", CHOICES[:1], answers(q0=answer))["official"]["accuracy"] == 1.0


@pytest.mark.parametrize("answer", ["The best option is to stop.", "The answer: the best option is to stop", "a"])
def test_an_option_may_speak_of_options(answer):
    rows = [{"id": "q", "question": "Which?", "answer": "A", "options": ["The best option is to stop", "Go"]}]
    assert scores("multiple-choice", rows, answers(q=answer))["official"]["accuracy"] == 1.0


@pytest.mark.parametrize("answer", ["", "C", "A car on the right", "Left or right", "Both"])
def test_what_chooses_nothing_is_wrong_and_named(answer):
    result = scores("multiple-choice", CHOICES[:1], answers(q0=answer))
    assert result["official"]["accuracy"] == 0.0
    assert result["counts"]["failures"] == {"no_letter": 1}


def test_a_reference_that_names_no_option_is_told():
    rows = [{"id": "q", "question": "Which?", "answer": "E", "type": None, "options": ["Left", "Right"]}]
    matched = match_answers("multiple-choice", rows, [{"id": "q", "answer": "E"}])
    assert matched.right == (False,)
    assert {failure.kind for failure in matched.failures} == {"no_letter", "no_right_option"}
    assert matched.questions[0].kind == "all"


def test_letters_and_chance_are_counted():
    result = scores("multiple-choice", CHOICES, answers(q0="A", q1="A"))
    assert result["letters"] == {
        "chosen": {"A": 2},
        "right": {"B": 1, "C": 1},
        "chance": pytest.approx((1 / 2 + 1 / 3) / 2),
    }


def test_the_test_form_of_drivelm_is_taken_too():
    asked = [{"Q": "Which? A. Stop. B. Go.", "A": "A", "tag": [0]}, {"Q": "Is it?", "A": "Yes.", "tag": [0]}]
    content = {"s": {"key_frames": {"f": {"QA": {"behavior": asked}}}}}
    rows = answers(s_f_0="A", s_f_1="No.")
    assert scores("multiple-choice", content, rows)["counts"]["questions"] == 1
    assert scores("exact-match", content, rows)["official"]["accuracy"] == 0.5


def test_missing_duplicate_and_extra_rows_are_named():
    rows = [*answers(q0="B", x="B"), *answers(q0="A"), 5]
    result = scores("multiple-choice", CHOICES, rows)
    failures = {"duplicate_id": 1, "extra_id": 1, "malformed_row": 1, "missing_id": 1, "no_letter": 1}
    assert result["counts"]["failures"] == failures


def test_forgetting_is_a_difference_with_an_interval():
    content = [{"id": f"q{i}", "question": "?", "answer": "yes", "type": "shape"} for i in range(10)]
    before = match_answers("exact-match", content, answers(**{f"q{i}": "yes" for i in range(10)}))
    after = match_answers("exact-match", content, answers(**{f"q{i}": "yes" if i < 6 else "no" for i in range(10)}))
    row = compare_matches(before, after, Resampling())["scores"]["accuracy"]
    assert (row["before"], row["after"], row["difference"]) == (1.0, 0.6, pytest.approx(-0.4))
    assert row["interval"][0] < -0.4 < row["interval"][1] < 0.0


@pytest.mark.parametrize(
    "content",
    [5, [5], [{"id": "a", "question": "?"}], [{"id": "a", "question": "?", "answer": "b", "options": ["x"]}], [],
     {"s": 1}, [{"id": "a", "question": "?", "answer": "b"}] * 2],
)  # fmt: skip
def test_references_of_another_form_are_refused(content):
    with pytest.raises(SubmissionError):
        match_answers("exact-match", content, [])


def test_a_row_without_a_scene_stands_for_itself():
    assert [q.scene for q in benchmark_questions(CHOICES)] == ["q0", "q1"]
    assert benchmark_questions([{**CHOICES[0], "scene": None}])[0].scene == "q0"
