"""The predict command over shards: its file, its mistakes, a stop and a new start, several ranks."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoTokenizer

from data_shards.asked import reference_rows
from data_shards.write import write_shards
from tests.helpers.dist import free_port
from tests.helpers.paths import ROOT
from tests.helpers.waiting import TIMEOUT_S
from tests.unit.trainer.evaluate.test_predict import VIEWS, stock_answers
from tests.unit.trainer.tiny_run import make_run, tiny_frame
from trainer.evaluate import predict_job
from trainer.evaluate.__main__ import main
from trainer.evaluate.predict_cli import add_arguments, run
from trainer.export import export


def predict(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("shards")
    write_shards([tiny_frame(0, 5), tiny_frame(1, 0), tiny_frame(2, 4)], directory, source="test", licence="none")
    return directory


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def test_command_line_writes_submission_rows(run_dir, shards, tmp_path):
    out = tmp_path / "deep" / "predictions.json"
    assert predict("--model", run_dir / "model", "--data", shards, "--out", out, "--max-new-tokens", 8) == 0
    rows = json.loads(out.read_text())
    assert [row["id"] for row in rows] == [f"s0_f_{i}" for i in range(4)] + [f"s2_f_{i}" for i in range(3)]
    frame = tiny_frame(0, 5)
    assert [row["question"] for row in rows[:4]] == [frame.questions[i].question for i in (1, 3, 0, 4)]
    model = AutoModelForImageTextToText.from_pretrained(run_dir / "model").double()
    stock = stock_answers(model, AutoTokenizer.from_pretrained(run_dir / "model"), frame, VIEWS, 8)
    assert [row["answer"] for row in rows[:4]] == [stock[i] for i in (1, 3, 0, 4)]


def test_answers_cut_at_the_longest_length_are_counted_and_not_marked_in_the_file(run_dir, shards, tmp_path, capsys):
    texts = []
    for tokens in (4, 9):
        out = tmp_path / f"{tokens}.json"
        assert predict("--model", run_dir / "model", "--data", shards, "--out", out, "--max-new-tokens", tokens) == 0
        rows = json.loads(out.read_text())
        assert all(set(row) == {"id", "question", "answer"} for row in rows)
        texts.append([row["answer"] for row in rows])
    said = re.search(r"4\.json: (\d+) answers were cut at --max-new-tokens 4\n", capsys.readouterr().out)
    longer = sum(first != second for first, second in zip(*texts, strict=True))
    assert 0 < longer <= int(said[1]) <= len(texts[0])


def test_general_questions_are_answered_and_compared_before_and_after(run_dir, tmp_path):
    frames = [tiny_frame(i, 3, cameras=0) for i in range(2)]
    frames = [replace(f, questions=tuple(replace(q, kind="general", tags=()) for q in f.questions)) for f in frames]
    write_shards(frames, tmp_path / "general", source="test", licence="none")
    (tmp_path / "references.json").write_text(json.dumps(reference_rows(frames)))
    before, after, out = tmp_path / "before.json", tmp_path / "after.json", tmp_path / "forgetting.json"
    settings = ["--data", tmp_path / "general", "--out", after, "--max-new-tokens", 4]
    assert predict("--model", run_dir / "model", *settings) == 0
    rows = json.loads(after.read_text())
    assert [row["id"] for row in rows] == [f"s{i}_f_{place}" for i in range(2) for place in range(3)]
    before.write_text(json.dumps([{**row, "answer": frames[0].questions[0].answer} for row in rows]))
    files = ["--predictions", after, "--compare", before, "--references", tmp_path / "references.json"]
    assert main(["score", "--benchmark", "exact-match", *map(str, files), "--out", str(out)]) == 0
    accuracy = json.loads(out.read_text())["comparison"]["scores"]["accuracy"]
    assert accuracy["before"] >= 1 / 6
    assert accuracy["difference"] == pytest.approx(accuracy["after"] - accuracy["before"])


def test_export_answers_as_the_run_does_and_blind_otherwise(run_dir, shards, tmp_path):
    export(run_dir, tmp_path / "export")
    for name, model, options in (
        ("run", run_dir / "model", []),
        ("export", tmp_path / "export", []),
        ("blind", tmp_path / "export", ["--black"]),
    ):
        out = tmp_path / f"{name}.json"
        assert predict("--model", model, "--data", shards, "--out", out, "--max-new-tokens", 8, *options) == 0
    assert (tmp_path / "run.json").read_text() == (tmp_path / "export.json").read_text()
    assert (tmp_path / "run.json").read_text() != (tmp_path / "blind.json").read_text()


def test_mistakes_end_in_status_2_with_their_fix(run_dir, shards, tmp_path, capsys):
    out = tmp_path / "predictions.json"
    assert predict("--model", tmp_path / "none", "--data", shards, "--out", out) == 2
    assert "preprocessing.json" in capsys.readouterr().err
    recipe = run_dir / "recipe.yaml"
    assert predict("--model", tmp_path / "none", "--data", shards, "--out", out, "--recipe", recipe) == 2
    assert "config.json: no such file" in capsys.readouterr().err
    assert predict("--model", run_dir / "model", "--data", tmp_path, "--out", out) == 2
    assert str(tmp_path) in capsys.readouterr().err
    write_shards([tiny_frame(1, 0)], tmp_path / "untagged", source="test", licence="none")
    assert predict("--model", run_dir / "model", "--data", tmp_path / "untagged", "--out", out) == 2
    assert "--form test" in capsys.readouterr().err
    assert list(tmp_path.glob("predictions*")) == []


def test_everything_wrong_with_the_inputs_is_said_at_once(run_dir, tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (model / name).write_bytes((run_dir / "model" / name).read_bytes())
    recipe = run_dir / "recipe.yaml"
    assert predict("--model", model, "--data", tmp_path / "none", "--out", tmp_path, "--recipe", recipe) == 2
    said = capsys.readouterr().err
    for part in ("no model.safetensors", "tokenizer.json: no such file", str(tmp_path / "none"), "is a directory"):
        assert part in said


def test_the_tokenizer_of_another_model_is_refused(run_dir, shards, tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    for path in (run_dir / "model").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    other = json.loads((model / "config.json").read_text()) | {"image_token_id": 5}
    (model / "config.json").write_text(json.dumps(other))
    recipe = run_dir / "recipe.yaml"
    assert predict("--model", model, "--data", shards, "--out", tmp_path / "p.json", "--recipe", recipe) == 2
    assert "is the tokenizer of another model?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--perturb", "snow"], "--perturb: got 'snow'"),
        (["--perturb", "fog", "--black"], "expected one of the two"),
        (["--temperature", "-1"], "--temperature: got -1"),
        (["--top-p", "0.5"], "--top-p: got 0.5 without --temperature"),
        (["--seed", "1"], "--seed: got 1 without --temperature"),
        (["--temperature", "1", "--top-p", "0"], "--top-p: got 0.0"),
        (["--permute-options", "-1"], "--permute-options: got -1"),
        (["--header", "none.json"], "none.json: cannot be read"),
    ],
)
def test_options_that_make_no_sense_are_refused(run_dir, shards, tmp_path, options, said, capsys):
    out = tmp_path / "p.json"
    assert predict("--model", run_dir / "model", "--data", shards, "--out", out, *options) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_rows_are_wrapped_where_a_header_is_given(run_dir, shards, tmp_path):
    header = {"method": "m", "team": "t", "authors": ["a"], "email": "e", "institution": "i", "country": "c"}
    (tmp_path / "header.json").write_text(json.dumps(header))
    out = tmp_path / "p.json"
    options = ["--header", tmp_path / "header.json", "--max-new-tokens", 2, "--max-frames", 1]
    assert predict("--model", run_dir / "model", "--data", shards, "--out", out, *options) == 0
    content = json.loads(out.read_text())
    assert len(content.pop("results")) == 4
    assert content == header


def count_answers(monkeypatch, stop_after: int | None = None) -> list[int]:
    """Sizes of the batches that the model answers from here on; after some of them the process is as if killed."""
    sizes: list[int] = []
    answer = predict_job.answer_in_batches

    def counted(*arguments):
        for batch in answer(*arguments):
            if stop_after is not None and len(sizes) == stop_after:
                raise KeyboardInterrupt
            sizes.append(sum(len(part.answers) for part in batch))
            yield batch

    monkeypatch.setattr(predict_job, "answer_in_batches", counted)
    return sizes


def test_a_stopped_run_goes_on_and_answers_nothing_twice(run_dir, shards, tmp_path, monkeypatch, capsys):
    arguments = ["--model", run_dir / "model", "--data", shards, "--max-new-tokens", 8, "--batch-rows", 2]
    assert predict(*arguments, "--out", tmp_path / "whole.json") == 0
    out = tmp_path / "p.json"
    with monkeypatch.context() as patch:
        assert sum(count_answers(patch, stop_after=2)) == 0
        assert predict(*arguments, "--out", out) == 75
    assert not out.exists()
    kept = tmp_path / "p.json.partial" / "rank-000.jsonl"
    assert len(kept.read_text().splitlines()) == 4
    with kept.open("a") as file:
        file.write('{"id": "s2_f_0", "quest')  # what a kill in the middle of a write leaves
    sizes = count_answers(monkeypatch)
    assert predict(*arguments, "--out", out) == 0
    assert sum(sizes) == 3
    assert "going on behind 4 kept answers" in capsys.readouterr().out
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not kept.parent.exists()


def test_kept_answers_of_other_settings_are_not_mixed_in(run_dir, shards, tmp_path, monkeypatch, capsys):
    arguments = ["--model", run_dir / "model", "--data", shards, "--out", tmp_path / "p.json"]
    with monkeypatch.context() as patch:
        count_answers(patch, stop_after=0)
        assert predict(*arguments, "--max-new-tokens", 8) == 75
    assert predict(*arguments, "--max-new-tokens", 4) == 2
    assert "max_new_tokens: kept 8, now 4" in capsys.readouterr().err
    assert predict(*arguments, "--max-new-tokens", 4, "--restart") == 0


def test_rows_that_no_disk_shows_are_named_and_nothing_is_written(run_dir, shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict_job.AnswerLog, "append", lambda self, rows: None)
    out = tmp_path / "p.json"
    assert predict("--model", run_dir / "model", "--data", shards, "--out", out, "--max-new-tokens", 2) == 2
    assert "got no answer to 7 questions, such as s0_f_0" in capsys.readouterr().err
    assert not out.exists()


def test_a_damaged_image_is_named_by_its_frame(run_dir, tmp_path, capsys):
    frame = tiny_frame(0, 2)
    cut = {name: data[:-40] for name, data in frame.images.items()}
    write_shards([replace(frame, images=cut)], tmp_path / "data", source="test", licence="none")
    assert predict("--model", run_dir / "model", "--data", tmp_path / "data", "--out", tmp_path / "p.json") == 2
    assert f"predict: {frame.key}: image of" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"version": "1.0", "added_tok', "{}", "[]"])
def test_a_spoilt_tokenizer_is_named(content, run_dir, shards, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(run_dir / "model", model)
    (model / "tokenizer.json").write_text(content)
    options = ["--recipe", run_dir / "recipe.yaml", "--out", tmp_path / "p.json"]
    assert predict("--model", model, "--data", shards, *options) == 2
    assert f"{model}: got an index, configuration or tokenizer that does not parse" in capsys.readouterr().err


def test_two_commands_do_not_write_one_file(run_dir, shards, tmp_path, capsys):
    out = tmp_path / "p.json"
    partial = tmp_path / "p.json.partial"
    partial.mkdir()
    hold = (
        "import sys; from pathlib import Path; from trainer.run_lock import locked\n"
        "with locked(Path(sys.argv[1]), print, setting='--out'): print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    arguments = ["--model", run_dir / "model", "--data", shards, "--out", out, "--max-new-tokens", 8]
    with subprocess.Popen([sys.executable, "-c", hold, str(partial)], cwd=ROOT, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        assert predict(*arguments) == 2
        other.stdin.close()
    assert f"--out: got {partial}, where process {other.pid} on " in capsys.readouterr().err
    assert predict(*arguments) == 0
    assert out.is_file()
    assert not partial.exists()


def test_two_ranks_write_what_one_process_writes(run_dir, tmp_path):
    frames = [tiny_frame(number, questions) for number, questions in enumerate((5, 3, 4, 1, 2))]
    write_shards(frames, tmp_path / "data", source="test", licence="none")
    arguments = ["--model", run_dir / "model", "--data", tmp_path / "data", "--max-new-tokens", 8]
    assert predict(*arguments, "--out", tmp_path / "one.json") == 0
    two = ["--batch-rows", 3, "--out", tmp_path / "two.json"]
    statuses, output = on_ranks([str(part) for part in (*arguments, *two)])
    assert statuses == [0, 0], output
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert len(json.loads((tmp_path / "two.json").read_text())) == 12
    assert output.count("12 answers") == 1
    (tmp_path / "data" / "shard-000000.tar").write_bytes(b"")
    statuses, output = on_ranks([str(part) for part in (*arguments, *two)])
    assert 0 not in statuses
    assert "Traceback" not in output
    assert "shard-000000.tar" in output


def on_ranks(arguments: list[str]) -> tuple[list[int], str]:
    """The command on two ranks, as a launcher starts it; exit statuses and all output."""
    port = str(free_port())
    ranks = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-m", "trainer.evaluate", f"--local_rank={rank}", "predict", *arguments]
        ranks.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | place | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        output = [rank.communicate(timeout=TIMEOUT_S)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [rank.returncode for rank in ranks], "\n".join(output)


def test_permuted_options_come_back_as_the_letters_of_the_question(run_dir, tmp_path):
    frame = choice_frame()
    write_shards([frame], tmp_path / "data", source="test", licence="none")
    arguments = ["--model", run_dir / "model", "--data", tmp_path / "data", "--max-new-tokens", 4]
    assert predict(*arguments, "--permute-options", 1, "--out", tmp_path / "p.json") == 0
    row = json.loads((tmp_path / "p.json").read_text())[0]
    assert row["question"] == frame.questions[0].question
    assert sorted(row["option_letters"]) == sorted(row["option_letters"].values()) == list("ABCD")
    assert row["option_letters"] != dict(zip("ABCD", "ABCD", strict=True))


def choice_frame():
    frame = tiny_frame(0, 1)
    text = "What is the moving status? A. Going ahead. B. Turn left. C. Stopped. D. Turn right."
    return replace(frame, questions=(replace(frame.questions[0], question=text),))
