"""What lint finds before an upload, kind by kind, and what it leaves alone."""

import json

import pytest

from trainer.evaluate.lint import MAX_ANSWER, lint, lint_file
from trainer.evaluate.submission import count_problems

CHOICE = "What is the moving status? A. Going ahead. B. Turn left."
TAG = "<c1,CAM_FRONT,800.0,450.5>"
QUESTIONS = ["What are the important objects?", CHOICE, "Is it?"]


def references(*tags):
    tags = tags or ((2,), (0,), (0,))
    entries = [{"Q": q, "A": "A", "tag": list(t)} for q, t in zip(QUESTIONS, tags, strict=True)]
    return {"s": {"key_frames": {"f": {"QA": {"perception": entries}}}}}


def rows(*answers):
    answers = answers or (f"A car {TAG}.", "B", "Yes.")
    return [{"id": f"s_f_{i}", "question": QUESTIONS[i], "answer": a} for i, a in enumerate(answers)]


def kinds(*answers):
    return count_problems(lint(rows(*answers), references()))


def test_a_clean_submission_has_no_problems():
    assert lint(rows(), references()) == []


def test_rows_and_ids_that_are_wrong_are_named_and_counted():
    wrong = [
        {"id": "s_f_0", "question": QUESTIONS[0], "answer": "a"},
        {"id": "s_f_0", "question": QUESTIONS[0], "answer": "b"},
        {"id": "s_f_1", "question": QUESTIONS[2], "answer": "B"},
        {"id": "s_f_9", "answer": "x"},
        {"id": "s_f_8"},
        {"id": ["s"], "answer": "x"},
        "text",
        None,
    ]
    problems = lint(wrong, references())
    assert count_problems(problems) == {
        "duplicate_id": 1,
        "extra_id": 1,
        "malformed_row": 4,
        "missing_id": 1,
        "other_question": 1,
    }
    assert {problem.id for problem in problems if problem.kind == "missing_id"} == {"s_f_2"}


def test_a_row_without_its_question_is_malformed():
    row = {"id": "s_f_2", "answer": "Yes."}
    assert count_problems(lint([*rows()[:2], row], references())) == {"malformed_row": 1}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("", {"empty_answer": 1}),
        ("x" * (MAX_ANSWER + 1), {"long_answer": 1}),
        ("a\rb", {"line_break": 1}),
        ("a\u2028b", {"line_break": 1}),
        ("a\nb", {}),
        ("a\x00b", {"control_character": 1}),
        ("a\ufffd", {"replacement_character": 1}),
        ("\ud83d", {"lone_surrogate": 1}),
        ("\U0001f697 Größe", {}),
        ("<c1,CAM_FRONT,800,450>", {"tag_form": 1}),
        ("<c1, CAM_FRONT, 800.0, 450.0>", {"tag_form": 1}),
        ("(c1,CAM_FRONT,800.0,450.0)", {"tag_form": 1}),
        ("A car c1,CAM_FRONT,800.0,450.0.", {"tag_form": 1}),
        ("<c1,CAM_TOP,800.0,450.0>", {"tag_form": 1}),
        ("<c1,CAM_FRONT,800.0", {"odd_decimals": 1, "tag_form": 1}),
        ("<c1,CAM_FRONT,1700.0,450.0>", {"point_outside": 1}),
        (f"{TAG} and <c1,CAM_BACK,1.0,2.0>", {"duplicate_tag": 1}),
        (f"{TAG} and {TAG}", {}),
        ("At 3.5 m", {"odd_decimals": 1}),
    ],
)
def test_answers_that_cost_points_are_told_by_kind(answer, found):
    assert kinds(answer, "B", "Yes.") == found


@pytest.mark.parametrize("answer", ["b", "B.", "B. Turn left.", "Turn left.", "C"])
def test_multiple_choice_wants_one_offered_letter(answer):
    assert kinds("A car.", answer, "Yes.") == {"no_letter": 1}


@pytest.mark.parametrize("answer", ["yes", "Yes", "no.", " No. "])
def test_yes_and_no_are_wanted_to_the_letter(answer):
    assert kinds("A car.", "A", answer) == {"yes_no": 1}


def test_decimals_count_only_where_points_are_scored():
    assert kinds("A car.", "A", "At 3.5 m") == {}
    problems = lint(rows("A car.", "A", "At 3.5 m"), references((2,), (0,), (3,)))
    assert count_problems(problems) == {"odd_decimals": 1}


def test_bytes_that_are_not_utf8_are_a_problem_and_no_end(tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(json.dumps(rows("A caf\u00e9."), ensure_ascii=False).encode("latin-1"))
    assert [problem.kind for problem in lint_file(path, references())] == ["encoding", "missing_id", "missing_id"]


def test_a_file_is_checked_for_its_encoding_and_the_servers_fields(tmp_path):
    path = tmp_path / "p.json"

    def found(content, encoding="utf-8", **options):
        path.write_bytes(json.dumps(content).encode(encoding))
        return [problem.detail for problem in lint_file(path, references(), **options)]

    assert found(rows()) == []
    assert "plain rows" in found(rows(), upload=True)[0]
    assert "byte order mark" in found(rows(), "utf-8-sig")[0]
    assert "UTF-16" in found(rows(), "utf-16")[0]
    header = {"method": "m", "team": "t", "authors": ["a"], "email": "e", "institution": "i", "country": "c"}
    assert found({**header, "results": rows()}, upload=True) == []
    details = found({**header, "team": "", "authors": "a", "results": rows()})
    assert ["'team'" in details[0], "'authors'" in details[1], len(details)] == [True, True, 2]
