"""Answers kept beside the output: whatever a kill or a crash left of them, whole rows are read and nothing else."""

import json
from pathlib import Path

import pytest

from trainer.evaluate.partial_answers import AnswerLog, PartialAnswers, PartialError

ROWS = [{"id": f"s_f_{number}", "question": "Is it?", "answer": "Yes.\u2028"} for number in range(3)]


def test_rows_come_back_and_lines_that_are_none_are_passed_over(tmp_path):
    partial = PartialAnswers(tmp_path / "p.json")
    partial.directory.mkdir()
    partial.prepare({"seed": 0}, restart=False)
    with AnswerLog(partial, rank=1) as log:
        log.append(ROWS[:2])
    spoilt = [b"\0" * 40, b'{"id": 3}', b"[1]", b"\xff", json.dumps(ROWS[2]).encode()]
    (partial.directory / "rank-000.jsonl").write_bytes(b"\n".join(spoilt) + b'\n{"id": "s_f')
    assert sorted(partial.read().values(), key=lambda row: row["id"]) == ROWS


def test_a_rank_drops_its_own_cut_line_before_it_goes_on(tmp_path):
    partial = PartialAnswers(tmp_path / "p.json")
    partial.directory.mkdir()
    partial.prepare({"seed": 0}, restart=False)
    (partial.directory / "rank-000.jsonl").write_bytes(json.dumps(ROWS[0]).encode() + b'\n{"id": "s_f_1", "que')
    with AnswerLog(partial, rank=0) as log:
        log.append(ROWS[1:])
    assert list(partial.read().values()) == ROWS


def test_other_or_spoilt_settings_are_refused_until_restarted(tmp_path):
    partial = PartialAnswers(tmp_path / "p.json")
    partial.directory.mkdir()
    partial.prepare({"seed": 0}, restart=False)
    with pytest.raises(PartialError, match=r"seed: kept 0, now 1.*--restart"):
        partial.prepare({"seed": 1}, restart=False)
    (partial.directory / "settings.json").write_text("{")
    with pytest.raises(PartialError, match="--restart"):
        partial.prepare({"seed": 1}, restart=False)
    partial.prepare({"seed": 1}, restart=True)
    assert partial.read() == {}


def test_a_kill_while_answers_are_dropped_leaves_none_without_their_settings(tmp_path, monkeypatch):
    partial = PartialAnswers(tmp_path / "p.json")
    partial.directory.mkdir()
    partial.prepare({"seed": 0}, restart=False)
    for rank in range(2):
        with AnswerLog(partial, rank) as log:
            log.append(ROWS)
    unlink, gone = Path.unlink, []

    def killed(path, **options):
        if gone:
            raise KeyboardInterrupt
        gone.append(path)
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            partial.drop()
    assert len(gone) == 1
    assert partial.read()
    with pytest.raises(PartialError, match="seed: kept 0, now 1"):
        partial.prepare({"seed": 1}, restart=False)
