"""The score command on files: keys written, options, other benchmarks, messages instead of tracebacks."""

import json
import sys

import pytest

from trainer.evaluate import score_cli
from trainer.evaluate.__main__ import main

CHOICE = "Which? A. Stop. B. Go."
ASKED = [
    {"Q": "What are the important objects?", "A": "A car <c1,CAM_FRONT,800.0,450.0>.", "tag": [2]},
    {"Q": CHOICE, "A": "A", "tag": [0]},
    {"Q": "Why?", "A": "Because it stops.", "tag": [1]},
    {"Q": "Notice?", "A": "<c1,CAM_FRONT,800.0,450.0>", "tag": [3]},
]
REFERENCES = {f"s{i}": {"key_frames": {"f": {"QA": {"perception": ASKED}}}} for i in range(3)}
ROWS = [{"id": f"s{s}_f_{i}", "question": q["Q"], "answer": q["A"]} for s in range(3) for i, q in enumerate(ASKED)]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(ROWS))
    (tmp_path / "g.json").write_text(json.dumps(REFERENCES))
    (tmp_path / "other.json").write_text(json.dumps([{**row, "answer": "B"} for row in ROWS]))
    return tmp_path


def score(files, *options, predictions="p.json"):
    out = files / "m.json"
    named = ["--predictions", str(files / predictions), "--references", str(files / "g.json"), "--out", str(out)]
    status = main(["score", *named, *options])
    return status, json.loads(out.read_text()) if out.is_file() else None


def test_every_part_is_written(files, capsys):
    status, metrics = score(files, "--resamples", "20")
    assert status == 0
    assert {
        "official", "counts", "ungated", "strict", "failures", "intervals", "by_type", "by_template", "diagnosis",
    } <= set(metrics)  # fmt: skip
    assert set(metrics["official"]) == {"accuracy", "chatgpt", "language", "match", "final"}
    assert list(metrics["official"]["language"]) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
    assert metrics["official"]["accuracy"] == 1.0
    assert metrics["official"]["final"] is None
    assert "final     needs a judge" in capsys.readouterr().out


def test_a_program_judges_and_its_replies_are_kept(files):
    script = files / "judge.py"
    script.write_text("import sys; sys.stdin.read(); print(80)")
    status, metrics = score(files, "--judge", f"command:{sys.executable} {script}", "--judge-workers", "1")
    assert status == 0
    assert metrics["official"]["chatgpt"] == 80.0
    assert metrics["official"]["match"] == pytest.approx(90.0)
    assert len((files / "judge_replies.jsonl").read_text().splitlines()) == 2
    script.write_text("raise SystemExit(1)")
    assert score(files, "--judge", f"command:{sys.executable} {script}")[1]["official"]["chatgpt"] == 80.0


def test_a_judge_that_is_down_leaves_the_other_scores(files):
    prompt = files / "prompt.txt"
    prompt.write_text("{answer}|{reference}")
    down = ["--judge", "openai:m@http://127.0.0.1:9/v1", "--judge-attempts", "1", "--judge-prompt", str(prompt)]
    status, metrics = score(files, *down, predictions="other.json")
    assert status == 0
    assert metrics["official"]["chatgpt"] is metrics["official"]["final"] is None
    assert metrics["official"]["accuracy"] == 0.0
    assert metrics["counts"]["failures"]["judge_failure"] == 6


def test_other_predictions_are_compared_probed_and_set_beside_baselines(files, capsys):
    other = str(files / "other.json")
    options = [
        "--compare",
        other,
        "--perturbed",
        f"black={other}",
        "--permuted",
        other,
        "--train",
        str(files / "g.json"),
    ]
    status, metrics = score(files, "--resamples", "20", *options)
    assert status == 0
    assert metrics["comparison"]["scores"]["accuracy"]["difference"] == 1.0
    assert metrics["diagnosis"]["grounding_gap"]["black"]["scores"]["accuracy"]["after"] == 0.0
    assert metrics["diagnosis"]["option_permutation"]["consistent"] == 0
    assert metrics["baselines"]["majority"]["official"]["accuracy"] == 1.0
    assert metrics["baselines"]["question_only"]["ungated"]["accuracy"] == 1.0
    assert "+1.0000" in capsys.readouterr().out


def test_what_is_wrong_with_the_other_files_is_counted(files, capsys):
    few = files / "few.json"
    few.write_text(json.dumps(ROWS[:4]), encoding="utf-8-sig")
    _, metrics = score(files, "--compare", str(few), "--perturbed", f"fog={few}", "--permuted", str(few))
    wrong = {"encoding": 1, "missing_id": 8}
    assert metrics["comparison"]["failures"] == {"before": wrong, "after": {}}
    assert metrics["diagnosis"]["grounding_gap"]["fog"]["failures"] == {"before": {}, "after": wrong}
    assert metrics["diagnosis"]["option_permutation"]["failures"] == [{}, wrong]
    assert "failures before: 8 missing_id" in capsys.readouterr().out
    _, metrics = score(files, "--compare", str(few), "--benchmark", "multiple-choice")
    assert metrics["comparison"]["failures"]["before"] == {
        "encoding": 1,
        "extra_id": 3,
        "missing_id": 2,
        "no_letter": 2,
    }


def test_questions_that_the_gate_drops_are_not_judged_in_the_other_file_either(files):
    dropped = {"Q": "Why <c9,CAM_BACK,1.0,2.0>?", "A": "Nobody found it.", "tag": [1]}
    (files / "g.json").write_text(json.dumps({"s0": {"key_frames": {"f": {"QA": {"perception": [*ASKED, dropped]}}}}}))
    script = files / "judge.py"
    script.write_text("import sys; sys.stdin.read(); print(80)")
    judge = ["--judge", f"command:{sys.executable} {script}", "--judge-workers", "1", "--judge-eligible-only"]
    score(files, *judge, "--compare", str(files / "other.json"))
    assert len((files / "judge_replies.jsonl").read_text().splitlines()) == 4


def test_another_benchmark_takes_the_same_files(files, capsys):
    status, metrics = score(files, "--benchmark", "multiple-choice", "--compare", str(files / "other.json"))
    assert status == 0
    assert metrics["benchmark"] == "multiple-choice"
    assert metrics["official"]["accuracy"] == 1.0
    assert metrics["counts"]["questions"] == 3
    assert metrics["comparison"]["scores"]["accuracy"]["before"] == 0.0
    assert "accuracy  1.0000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"[]", "missing_id"),
        (json.dumps([*ROWS, ROWS[0]]).encode(), "duplicate_id"),
        (json.dumps([*ROWS, {"id": "x", "answer": ""}, 5]).encode(), "extra_id"),
        (json.dumps(ROWS).encode("utf-16"), "encoding"),
        (json.dumps([{**ROWS[0], "answer": "é \ud800"}, *ROWS[1:]]).encode(), None),
        (json.dumps([{**ROWS[0], "answer": "a" * 30_000}, *ROWS[1:]]).encode(), "long_answer"),
    ],
)  # fmt: skip
def test_bad_rows_are_counted_and_scores_written(files, data, failure):
    (files / "p.json").write_bytes(data)
    status, metrics = score(files, "--resamples", "5")
    assert status == 0
    assert failure is None or metrics["counts"]["failures"][failure] >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resamples", "0"], "--resamples"),
        (["--seed", "-1"], "--seed"),
        (["--judge", "command:/no/such"], "--judge"),
        (["--train", "none.json"], "none.json"),
        (["--compare", "none.json"], "none.json"),
        (["--perturbed", "none.json"], "none.json"),
        (["--judge", "command:cat", "--judge-prompt", "none.txt"], "none.txt"),
        (["--judge-prompt", "none.txt"], "--judge-prompt: got it with --judge none"),
        (["--judge", "jaccard", "--judge-workers", "8"], "--judge-workers: got it with --judge jaccard"),
        (["--judge-eligible-only"], "--judge-eligible-only: got it with --judge none, expected it with a judge"),
        (["--benchmark", "exact-match", "--train", "t.json"], "--train"),
        (["--benchmark", "exact-match", "--judge", "jaccard"], "--judge: got it with --benchmark exact-match"),
        (["--benchmark", "exact-match", "--judge-timeout", "60"], "--judge-timeout: got it with --benchmark"),
        (["--benchmark", "exact-match", "--tokenizer", "ptb"], "--tokenizer: got it with --benchmark exact-match"),
    ],
)
def test_wrong_usage_leaves_a_message_and_no_file(files, options, message, capsys):
    status, metrics = score(files, *options)
    assert status in (1, 2)
    assert metrics is None
    assert message in capsys.readouterr().err


def test_an_interrupt_ends_with_a_message_and_status_75(files, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(score_cli, "scorecard", interrupted)
    assert score(files) == (75, None)
    assert "stopped" in capsys.readouterr().err


def test_files_that_are_no_json_are_named(files, capsys):
    (files / "p.json").write_bytes(b"[{")
    assert score(files) == (2, None)
    assert "p.json" in capsys.readouterr().err
