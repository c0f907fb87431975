"""Official scores against DriveLM's own evaluation on its sample, its unit tables, and inputs on which it raises."""

import json
import math
import time

import pytest

from tests.helpers.paths import DRIVELM_EVAL_CASES, needs_drivelm_eval_cases
from trainer.evaluate.drivelm import apply_graph_gate, match_points, score
from trainer.evaluate.judge import parse_judge
from trainer.evaluate.submission import SubmissionError, answers_by_id, reference_questions

CASES = ("case1_repo_output", "case2_repo_submission", "case3_gt_as_prediction")
TOLERANCE = 1e-12
OBJECT_QUESTION = "What are the important objects in the current scene? Those objects will be considered."


def load(*parts):
    return json.loads(DRIVELM_EVAL_CASES.joinpath(*parts).read_text())


def frame(*questions):
    """References of one frame from (question, answer, tag) triples."""
    rows = [{"Q": question, "A": answer, "tag": [tag]} for question, answer, tag in questions]
    qa = {"perception": rows, "prediction": [], "planning": [], "behavior": []}
    return {"s": {"key_frames": {"f": {"QA": qa}}}}


def rows(*answers):
    return [{"id": f"s_f_{i}", "question": "", "answer": answer} for i, answer in enumerate(answers)]


def numbers(value):
    values = value.values() if isinstance(value, dict) else [value]
    return [n for v in values for n in (numbers(v) if isinstance(v, dict) else [v])]


@needs_drivelm_eval_cases
@pytest.mark.parametrize("judge", ["const0", "const100", "jaccard"])
@pytest.mark.parametrize("case", CASES)
def test_official_scores_equal_the_original_evaluation(case, judge):
    expected = load(case, "expected.json")
    name = judge if judge == "jaccard" else f"const:{judge.removeprefix('const')}"
    result = score(load(case, "gt.json"), load(case, "pred.json"), parse_judge(name))
    official = result["official"]
    assert official["accuracy"] == pytest.approx(expected["accuracy"], rel=TOLERANCE)
    for key, value in expected["language"].items():
        assert official["language"][key.removeprefix("val/").lower()] == pytest.approx(value, rel=TOLERANCE, abs=0)
    for key in ("chatgpt", "match"):
        assert official[key] == pytest.approx(expected["judge"][judge][key], rel=TOLERANCE)
    assert official["final"] == pytest.approx(expected["judge"][judge]["final_score"], rel=TOLERANCE)
    assert result["match_f1"] == pytest.approx(expected["match_f1_mean"], rel=TOLERANCE)
    assert result["failures"] == []


@needs_drivelm_eval_cases
@pytest.mark.parametrize("case", CASES)
def test_counts_and_ungated_scores_equal_the_original(case):
    expected = load(case, "expected.json")
    result = score(load(case, "gt.json"), load(case, "pred.json"), parse_judge("none"))
    counts = result["counts"]
    assert counts["eligible"] == {n: expected[f"n_{n}"] for n in ("accuracy", "chatgpt", "language", "match")}
    assert list(counts["total"].values()) == [expected["n_total_by_tag"][str(tag)] for tag in range(4)]
    assert counts["gated_out"] == len(expected["gated_out"])
    assert result["ungated"]["accuracy"] == pytest.approx(expected["ungated"]["accuracy"], rel=TOLERANCE)


@needs_drivelm_eval_cases
@pytest.mark.parametrize("case", CASES)
def test_the_gate_drops_the_questions_the_original_drops(case):
    expected = load(case, "expected.json")
    questions = list(reference_questions(load(case, "gt.json")))
    answers, _ = answers_by_id(load(case, "pred.json"), questions)
    graded, _ = apply_graph_gate(questions, answers)
    assert [g.question.id for g in graded if not g.eligible] == expected["gated_out"]
    for name, points in expected["graph_per_frame"].items():
        first = next(q for q in questions if q.id == f"{name}_0")
        assert [list(p) for p in match_points(answers[first.id], first.answer).matched] == points


@needs_drivelm_eval_cases
def test_points_match_as_in_the_original_table():
    table = load("unit_match.json")
    assert len(table["cases"]) == 24
    for row in table["cases"]:
        result = match_points(row["answer"], row["GT"])
        assert [list(point) for point in result.matched] == row["matched_gt"], row["name"]
        assert result.f1 == pytest.approx(row["F1"], rel=TOLERANCE), row["name"]


@needs_drivelm_eval_cases
def test_the_gate_decides_as_in_the_original_table():
    table = load("unit_graph_gate.json")
    assert len(table) == 9
    for row in table:
        references = frame((OBJECT_QUESTION, row["GT0"], 2), (row["question"], "Yes.", 0))
        result = score(references, rows(row["answer0"], "Yes."), parse_judge("const:0"))
        if "raises" in row:
            assert [failure["kind"] for failure in result["failures"] if failure["id"] == "s_f_1"] == ["odd_decimals"]
        else:
            assert (result["counts"]["eligible"]["accuracy"] == 1) == row["scored"], row["name"]


@needs_drivelm_eval_cases
def test_references_on_which_the_original_raises_give_a_row_and_finite_scores():
    (row,) = load("unit_match.json")["raises"]
    result = score(frame((OBJECT_QUESTION, row["GT"], 3)), rows(row["answer"]), parse_judge("const:50"))
    assert {"kind": "odd_decimals", "id": "s_f_0"}.items() <= result["failures"][0].items()
    assert all(math.isfinite(n) for n in numbers(result["official"]))


def test_without_a_judge_only_the_scores_that_need_one_are_missing():
    official = score(frame(("Is it?", "Yes.", 0)), rows("Yes."), parse_judge("none"))["official"]
    assert [name for name, value in official.items() if value is None] == ["chatgpt", "match", "final"]
    assert official["accuracy"] == 1.0


class WordyJudge:
    def reply(self, answer, reference):
        return "I would give 40 points."


def test_a_judge_that_does_not_answer_with_a_number_is_counted():
    result = score(frame(("Why?", "Because.", 1)), rows("So."), WordyJudge())
    assert result["official"]["chatgpt"] == 40.0
    assert result["counts"]["failures"]["judge_reply"] == 1


@pytest.mark.parametrize("references", [{}, frame(), frame(("What?", "", 2)), frame(("Is it?", "Yes.", 0))])
def test_empty_buckets_are_named_and_all_scores_finite(references):
    result = score(references, [], parse_judge("const:0"))
    assert result["counts"]["failures"]["empty_bucket"] >= 3
    assert all(math.isfinite(n) for n in numbers(result["official"]))


def test_missing_duplicate_extra_and_malformed_rows_are_failures_and_count_as_the_original_counts_them():
    references = frame(("Is it?", "Yes.", 0), ("Is it?", "No.", 0), ("Is it?", "No.", 0))
    predictions = [*rows("No.", "No."), {"id": "s_f_0", "answer": "Yes."}, {"id": "x", "answer": "?"}, 5, {"id": 7}]
    result = score(references, predictions, parse_judge("none"))
    failures = result["counts"]["failures"]
    assert {k: failures[k] for k in ("missing_id", "duplicate_id", "extra_id", "malformed_row")} == {
        "missing_id": 1, "duplicate_id": 1, "extra_id": 1, "malformed_row": 2,
    }  # fmt: skip
    assert result["official"]["accuracy"] == pytest.approx(2 / 3)


def test_a_line_break_does_not_shift_the_other_answers_and_is_named():
    references = frame(*[("What?", f"answer number {name} of all", 2) for name in ("one", "two", "three")])
    answers = ["answer number one of all", "answer number\rtwo of all", "answer number three of all"]
    result = score(references, rows(*answers), parse_judge("none"))
    assert result["official"]["language"]["rouge_l"] == 1.0
    assert [f["id"] for f in result["failures"] if f["kind"] == "line_break"] == ["s_f_1"]


def test_objects_are_scored_for_the_object_question_alone():
    answer = "There is a red car to the front of the ego vehicle. The ID of this object is <c1,CAM_FRONT,1.0,2.0>."
    references = frame((OBJECT_QUESTION, answer, 2), ("What is to the front of the ego vehicle?", "A car.", 0))
    assert score(references, rows(answer, ""), parse_judge("none"))["object_f1"] == {
        "micro": 1.0,
        "macro": 1.0,
        "frames": 1,
    }


@pytest.mark.parametrize("unit", ["1", "a", "1.", " ", "<", "no. ", "1.0,2.0 "])
def test_a_huge_answer_is_scored_in_linear_time(unit):
    references = frame((OBJECT_QUESTION, "<c1,CAM_FRONT,1.0,2.0>", 2), ("Notice?", "<c1,CAM_FRONT,1.0,2.0>", 3))

    def seconds(length):
        start = time.process_time()
        answer = unit * (length // len(unit))
        score(references, rows(answer, answer), parse_judge("jaccard"))
        return time.process_time() - start

    tries = (seconds(80_000) < 8 * seconds(20_000) + 1.0 for _ in range(5))
    assert any(tries)  # 16 times if it were quadratic


@pytest.mark.parametrize(
    "references", [[], {"s": 1}, {"s": {"key_frames": {"f": {}}}}, frame(("Q", None, 0)), frame(("Q", "A", "0"))]
)
def test_references_of_another_form_are_refused(references):
    with pytest.raises(SubmissionError):
        score(references, [], parse_judge("none"))
