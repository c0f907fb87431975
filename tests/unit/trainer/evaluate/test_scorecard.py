"""The whole card on the reference cases: sums give the official digits, and what stands beside them adds up."""

import json
import math

import pytest

from tests.helpers.paths import DRIVELM_EVAL_CASES, needs_drivelm_eval_cases
from trainer.evaluate.drivelm import evaluate
from trainer.evaluate.drivelm_sums import scene_sums, scores_from_sums
from trainer.evaluate.intervals import Resampling
from trainer.evaluate.judge import parse_judge
from trainer.evaluate.scorecard import compare, scorecard
from trainer.evaluate.strict import strict_matches

CASES = ("case1_repo_output", "case2_repo_submission", "case3_gt_as_prediction")
TAG = "<c1,CAM_FRONT,800.0,450.0>"


def load(*parts):
    return json.loads(DRIVELM_EVAL_CASES.joinpath(*parts).read_text())


def references_of(*questions, scenes=2):
    rows = [{"Q": question, "A": answer, "tag": tags} for question, answer, tags in questions]
    return {f"s{i}": {"key_frames": {"f": {"QA": {"perception": rows}}}} for i in range(scenes)}


def rows_of(*answers, scenes=2):
    return [{"id": f"s{s}_f_{i}", "question": "", "answer": a} for s in range(scenes) for i, a in enumerate(answers)]


@needs_drivelm_eval_cases
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_sums_over_all_scenes_give_the_official_scores(case, gated):
    evaluation = evaluate(load(case, "gt.json"), load(case, "pred.json"), parse_judge("jaccard"))
    sums = scene_sums(evaluation, strict_matches(evaluation), gated=gated)
    got, expected = scores_from_sums(sums.total()), evaluation.parts(gated=gated)
    language = expected.pop("language")
    for name, value in {**expected, **{f"language.{key}": value for key, value in language.items()}}.items():
        assert float(got[name]) == pytest.approx(value, rel=1e-12, abs=0), name


@needs_drivelm_eval_cases
def test_tables_count_every_question_once_and_are_seeded():
    card, _ = scorecard(load(CASES[2], "gt.json"), load(CASES[2], "pred.json"), parse_judge("none"))
    for table in ("by_type", "by_template"):
        assert sum(row["questions"] for row in card[table]) == card["counts"]["questions"]
        assert all(row["exact"] == row["rouge_l"] == 1.0 for row in card[table])
    again, _ = scorecard(load(CASES[2], "gt.json"), load(CASES[2], "pred.json"), parse_judge("none"))
    assert again["intervals"] == card["intervals"]
    assert card["intervals"]["official"]["final"] is None
    assert card["strict"]["match_f1"] == pytest.approx(card["match_f1"])
    assert card["strict"]["match"] is None


def test_strict_scores_want_the_camera():
    references = references_of(("What?", f"A car {TAG}.", [2]), ("Notice?", f"It is {TAG}.", [3]))
    wrong = "<c1,CAM_BACK,800.0,450.0>"
    card, _ = scorecard(references, rows_of(wrong, wrong), parse_judge("const:40"))
    assert card["match_f1"] == card["strict"]["official_graph_f1"] == pytest.approx(1.0)
    assert card["strict"]["match_f1"] == card["strict"]["graph_f1"] == card["strict"]["precision"] == 0.0
    assert card["official"]["match"] == pytest.approx(70.0)
    assert card["strict"]["match"] == pytest.approx(20.0)
    assert card["diagnosis"]["camera_confusion"]["wrong_camera"] == 4


def test_ungated_scores_hold_all_questions():
    asked = f"Is {TAG} moving?"
    references = references_of(("What?", f"A car {TAG}.", [2]), (asked, "Yes.", [0]), ("Is it?", "No.", [0]))
    card, _ = scorecard(references, rows_of("Nothing.", "Yes.", "Yes."), parse_judge("none"))
    assert card["counts"]["eligible"]["accuracy"] == 2
    assert (card["official"]["accuracy"], card["ungated"]["accuracy"]) == (0.0, 0.5)
    assert [row["questions"] for row in card["by_template"]] == [2, 2, 2]


def test_without_asking_about_gated_questions_the_ungated_ratings_are_missing():
    references = references_of(("What?", TAG, [2]), (f"Why {TAG}?", "So.", [1]))
    evaluation = evaluate(references, rows_of("?", "So."), parse_judge("const:40"), rate_all=False)
    assert evaluation.parts()["chatgpt"] == 0.0
    assert evaluation.parts(gated=False)["chatgpt"] is None
    assert evaluate(references, rows_of("?", "So."), parse_judge("const:40")).parts(gated=False)["chatgpt"] == 40.0


def test_ratings_of_some_questions_give_neither_ungated_intervals_nor_differences():
    references = references_of(("What?", TAG, [2]), (f"Why {TAG}?", "So.", [1]), ("Why?", "So.", [1]))
    judge = parse_judge("const:40")
    card, evaluation = scorecard(references, rows_of("?", "So.", "So."), judge, rate_all=False)
    assert card["intervals"]["official"]["chatgpt"] == [40.0, 40.0]
    assert card["intervals"]["ungated"]["chatgpt"] is card["intervals"]["ungated"]["final"] is None
    assert "chatgpt" not in compare(evaluation, evaluation, Resampling(resamples=5))["scores"]


def test_a_comparison_subtracts_the_earlier_predictions():
    references = references_of(("Is it?", "Yes.", [0]), ("Is he?", "No.", [0]), scenes=3)
    before, after = (
        evaluate(references, rows_of(*answers, scenes=3), parse_judge("none"))
        for answers in (("No.", "No."), ("Yes.", "No."))
    )
    result = compare(before, after, Resampling(resamples=50))
    assert result["scenes"] == 3
    row = result["scores"]["accuracy"]
    assert (row["before"], row["after"], row["difference"], row["interval"]) == (0.5, 1.0, 0.5, [0.5, 0.5])
    assert "match" not in result["scores"]


def test_a_huge_answer_is_named_and_everything_finite():
    answer = f"The car {TAG} is moving. " * 8_000  # 200 kB: as slow as it gets, were anything quadratic
    references = references_of(("What?", f"A car {TAG}.", [2]), ("Notice?", TAG, [3]), ("Is it?", "No.", [0]))
    card, _ = scorecard(references, rows_of(answer, answer, answer), parse_judge("jaccard"))
    assert card["counts"]["failures"]["long_answer"] == 6
    assert all(math.isfinite(value) for value in card["official"]["language"].values())


def test_no_questions_at_all_give_a_card():
    card, _ = scorecard({}, [], parse_judge("const:1"))
    assert card["official"]["final"] == 0.0
    assert card["by_type"] == []
