"""The command line: exit statuses, messages, files; scoring needs no torch."""

import json
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT
from trainer.evaluate.__main__ import main

REFERENCES = {"s": {"key_frames": {"f": {"QA": {"perception": [{"Q": "Is it?", "A": "Yes.", "tag": [0]}]}}}}}


@pytest.fixture
def files(tmp_path):
    predictions, references = tmp_path / "p.json", tmp_path / "g.json"
    predictions.write_text(json.dumps([{"id": "s_f_0", "question": "Is it?", "answer": "Yes."}]))
    references.write_text(json.dumps(REFERENCES))
    return ["--predictions", str(predictions), "--references", str(references)]


def test_score_writes_every_part(files, tmp_path, capsys):
    out = tmp_path / "new" / "metrics.json"
    assert main(["score", *files, "--judge", "const:50", "--out", str(out)]) == 0
    metrics = json.loads(out.read_text())
    assert {"official", "counts", "ungated", "object_f1", "failures"} <= set(metrics)
    assert metrics["official"]["accuracy"] == 1.0
    assert "accuracy  1.0000" in capsys.readouterr().out


def test_lint_tells_clean_from_unclean(files, tmp_path, capsys):
    assert main(["lint", *files]) == 0
    (tmp_path / "p.json").write_text("[]")
    capsys.readouterr()
    assert main(["lint", *files]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "missing_id: s_f_0: no answer; counted as an empty one",
        '1 problems: {"missing_id": 1}',
    ]


def test_ids_that_no_terminal_can_print_are_printed_escaped(files, tmp_path):
    rows = [{"id": "\ud800", "question": "", "answer": "\udfff"}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    command = [sys.executable, "-m", "trainer.evaluate", "lint", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "extra_id: \\ud800: " in done.stdout
    assert "missing_id" in done.stdout


def test_plain_rows_are_a_problem_only_for_an_upload(files, capsys):
    assert main(["lint", *files, "--upload"]) == 2
    assert "header: file: plain rows" in capsys.readouterr().out


@pytest.mark.parametrize("change", [["--judge", "gpt"], ["--predictions", "none.json"], ["--references", "none.json"]])
def test_wrong_usage_exits_with_2_and_a_message(files, tmp_path, change, capsys):
    assert main(["score", *files, "--out", str(tmp_path / "m.json"), *change]) == 2
    assert change[1] in capsys.readouterr().err


def test_a_missing_option_exits_with_2():
    with pytest.raises(SystemExit) as stop:
        main(["score"])
    assert stop.value.code == 2


def test_scoring_imports_no_torch():
    code = "import sys, trainer.evaluate.__main__; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
