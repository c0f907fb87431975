"""Prediction files in odd encodings, training files, files by name."""

import json

import pytest

from trainer.evaluate.score_inputs import named_files, read_predictions, train_questions
from trainer.evaluate.submission import SubmissionError

ROWS = [{"id": "s_f_0", "question": "Q", "answer": "é"}]


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-8", [])]
    + [
        (name, ["encoding"])
        for name in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "latin-1")
    ],
)
@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"results": rows}])
def test_other_encodings_are_read_and_named(tmp_path, encoding, named, wrap):
    path = tmp_path / "p.json"
    path.write_bytes(json.dumps(wrap(ROWS), ensure_ascii=False).encode(encoding))
    rows, problems = read_predictions(path)
    assert rows == ROWS
    assert [problem.kind for problem in problems] == named


@pytest.mark.parametrize(
    "data", [b"[{", b"", b"5", b'{"a": "\xe9"}', b"[\xe9", b"\xff\xfe[", b"[" * 100_000, b"\x00\x01"]
)
def test_what_holds_no_rows_is_refused_by_name(tmp_path, data):
    path = tmp_path / "p.json"
    path.write_bytes(data)
    with pytest.raises(SubmissionError, match=r"p\.json"):
        read_predictions(path)


def test_training_questions_need_no_tags_but_answers(tmp_path):
    path = tmp_path / "t.json"
    asked = [{"Q": "Is it?", "A": "Yes."}, {"Q": "What?"}]
    path.write_text(json.dumps({"s": {"key_frames": {"f": {"QA": {"perception": asked}}}}}))
    assert train_questions(path) == [("Is it?", "Yes.")]
    path.write_text("{}")
    with pytest.raises(SubmissionError, match=r"t\.json: got no answered question"):
        train_questions(path)


def test_a_file_whose_name_holds_an_equals_sign_is_found(tmp_path):
    odd = tmp_path / "lr=1.json"
    odd.write_text("[]")
    assert named_files([str(odd)], "--x") == {"lr=1": odd}
    with pytest.raises(SubmissionError, match="write NAME=FILE"):
        named_files(["=p.json"], "--x")


def test_files_bear_their_own_or_a_given_name(tmp_path):
    assert {name: path.name for name, path in named_files(["dark=a.json", "b.json"], "--x").items()} == {
        "dark": "a.json", "b": "b.json",
    }  # fmt: skip
    with pytest.raises(SubmissionError, match="--x"):
        named_files(["a/b.json", "c/b.json"], "--x")
