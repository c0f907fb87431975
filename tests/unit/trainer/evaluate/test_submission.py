"""Submissions written and read; files that are none."""

import json

import pytest

from trainer.evaluate.submission import (
    SubmissionError,
    SubmissionHeader,
    read_header,
    read_references,
    read_submission,
    reference_questions,
    write_submission,
)

HEADER = SubmissionHeader(
    method="m", team="t", authors=("a", "b"), email="e@x.org", institution="i", country="c"
)  # fmt: skip
ROWS = [{"id": f"s_f_{i}", "question": "Q", "answer": f"é {i}"} for i in range(3)]


@pytest.fixture
def references():
    entry = {"Q": "Q", "A": "A", "tag": [0]}
    qa = {"behavior": [entry], "perception": [{**entry, "Q": "first"}], "planning": [entry]}
    return {"s": {"key_frames": {"f": {"QA": qa}}}}


def test_ids_count_through_perception_prediction_planning_behaviour(references):
    questions = list(reference_questions(references))
    assert [(q.id, q.kind) for q in questions] == [
        ("s_f_0", "perception"),
        ("s_f_1", "planning"),
        ("s_f_2", "behavior"),
    ]
    assert questions[0].question == "first"


@pytest.mark.parametrize("header", [None, HEADER])
def test_a_written_submission_reads_back(tmp_path, header):
    path = tmp_path / "out.json"
    write_submission(ROWS, path, header)
    assert read_submission(path) == ROWS
    content = json.loads(path.read_text())
    assert isinstance(content, list) if header is None else set(content) == {
        "method", "team", "authors", "email", "institution", "country", "results",
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark_are_read(tmp_path, encoding):
    path = tmp_path / "p.json"
    path.write_bytes(json.dumps(ROWS, ensure_ascii=False).encode(encoding))
    assert read_submission(path) == ROWS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[{", "not JSON"),
        (b"", "not JSON"),
        ("é".encode("latin-1"), "not utf-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"method": "m"}', "expected"),
        (b"5", "expected"),
        (b"1" * 10_000, "not JSON"),
    ],
)
def test_files_that_are_no_submission_are_refused_by_name(tmp_path, data, message):
    path = tmp_path / "p.json"
    path.write_bytes(data)
    with pytest.raises(SubmissionError, match=message) as error:
        read_submission(path)
    assert "p.json" in str(error.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(SubmissionError, match=r"none\.json"):
        read_submission(tmp_path / "none.json")


def test_references_of_another_form_are_refused_with_the_form(tmp_path):
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"s": {"key_frames": {"f": {"QA": {"perception": [{"Q": "q", "A": "a"}]}}}}}))
    with pytest.raises(SubmissionError, match=r"g\.json.*question 0.*'tag'"):
        read_references(path)


def test_questions_without_answers_are_read_where_none_are_needed(tmp_path):
    path = tmp_path / "q.json"
    path.write_text(json.dumps({"s": {"key_frames": {"f": {"QA": {"perception": [{"Q": "q"}]}}}}}))
    with pytest.raises(SubmissionError, match="'A'"):
        read_references(path)
    (question,) = reference_questions(read_references(path, answered=False), answered=False)
    assert (question.question, question.answer, question.tags) == ("q", "", ())


def test_a_header_is_read_or_refused_with_every_wrong_field(tmp_path):
    path = tmp_path / "header.json"
    content = {"method": "m", "team": "t", "authors": ["a", "b"], "email": "e@x.org", "institution": "i"}
    path.write_text(json.dumps({**content, "country": "c"}))
    assert read_header(path) == HEADER
    path.write_text(json.dumps({**content, "team": " ", "authors": [], "colour": "red"}))
    with pytest.raises(SubmissionError) as error:
        read_header(path)
    for part in ("header.json", "'team'", "'authors'", "'country'", "'colour'"):
        assert part in str(error.value)
