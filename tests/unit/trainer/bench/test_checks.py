"""Every problem of a command line is named at once, with its flag, and ends the command with status 2."""

import pytest

from benchmarks import scaling
from trainer.bench import kernels, suite
from trainer.bench.__main__ import main
from trainer.bench.checks import bench_problems, unwritable
from trainer.bench.options import bench_parser, settings_of
from trainer.engine import EngineError
from trainer.guards import OutOfMemory


def problems(line, gpus=1):
    return bench_problems(bench_parser(None).parse_args(["--preset", "tiny", *line.split()]), gpus=gpus)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--stage align --steps 0", "--steps: got 0, expected a whole number of at least 1"),
        ("--stage align --warmup -1", "--warmup: got -1"),
        ("--stage align --workers -1", "--workers: got -1"),
        ("--stage align --general -1", "--general: got -1, expected 0 or more"),
        ("--stage align --general nan", "--general: got nan"),
        ("--stage align --peak-tflops -5", "--peak-tflops: got -5, expected a number above 0"),
        ("--stage align --gpu-memory 0", "--gpu-memory: got 0"),
        ("--stage align --make-frames 0", "--make-frames: got 0"),
        ("--stage align --questions-per-visit 0", "--questions-per-visit: got 0"),
        ("--stage align --tokens 300", "--tokens: got 300, expected at least 301"),
        ("--stage align --data x --padded", "--padded: got --data, expected random packs in memory"),
        ("--stage align --make-frames 2 --general 0.5", "--general: got --make-frames"),
        ("--stage distill --padded", "--padded: got --stage distill"),
        ("--stage distill --general 0.5", "--general: got --stage distill"),
        ("--stage distill --questions-per-visit 4", "--questions-per-visit: got --stage distill"),
        ("--stage align --cached", "--cached: is for --stage distill"),
        ("--stage distill --cached --data x", "--cached: is for --stage distill, with random packs"),
        ("--stage align --checkpoint-vision -1", "--checkpoint-vision: got -1"),
        ("--stage align --checkpoint-language 2 --gpu-memory 40", "--checkpoint-language: got 2 beside --gpu-memory"),
        ("--stage distill --stock", "--stock: got --stage distill"),
        ("--stage align --stock --padded", "--padded: got --stock as well"),
        ("--stage align --stock --questions-per-visit 32", "--questions-per-visit: got 32, expected 1 with --stock"),
        ("--stage align --stock --attention varlen", "--attention: got varlen, expected auto, flash or sdpa"),
        ("--stage align --stock --kernels liger", "--kernels: got liger, expected auto or plain"),
        ("--stage align --stock --checkpoint-vision all", "--checkpoint-vision, --checkpoint-language: with --stock"),
    ],
)
def test_what_is_wrong_is_named_with_its_flag(line, said):
    (problem,) = problems(line)
    assert problem.startswith(said)


def test_all_problems_of_a_line_are_named_together():
    found = problems("--stage distill --steps 0 --warmup -2 --padded --gpu-memory -1 --checkpoint-vision all")
    assert [problem.split(":")[0] for problem in found] == [
        "--steps",
        "--warmup",
        "--gpu-memory",
        "--checkpoint-vision",
        "--padded",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "--stage distill --tokens 1 --cached",
        "--stage finetune --tokens 301 --general 0.25 --padded --questions-per-visit 1",
        "--stage align --make-frames 2 --workers 0 --warmup 0",
        "--stage finetune --stock --attention sdpa --checkpoint-vision all --checkpoint-language all",
        "--stage finetune --checkpoint-vision all --checkpoint-language 2",
    ],
)
def test_lines_without_a_problem_are_taken(line):
    assert problems(line) == []


def test_a_stock_model_is_asked_one_question_a_visit():
    taken = [
        settings_of(bench_parser(None).parse_args(["--stage", "align", *more]), gpus=1).questions_per_visit
        for more in ([], ["--stock"], ["--questions-per-visit", "4"])
    ]
    assert taken == [32, 1, 4]


def test_a_cpu_has_no_optimiser_of_deepspeed_by_default():
    line = "--stage align --adamw deepspeed"
    (problem,) = problems(line, gpus=0)
    assert problem.startswith("--adamw: got deepspeed, expected auto or plain on a CPU")
    assert problems(line, gpus=1) == problems(f"{line} --ds_config own.json", gpus=0) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (problem,) = unwritable(tmp_path / "file" / "figures.json")
    assert problem.startswith(f"--out: got {tmp_path / 'file' / 'figures.json'}, which cannot be written")
    assert "a directory, expected a file" in unwritable(tmp_path)[0]
    assert unwritable(tmp_path / "new" / "figures.json") == []
    assert unwritable(tmp_path / "others", directory=True) == []
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    ("command", "line", "flags"),
    [
        (main, "--preset tiny --stage align --steps 0 --warmup -1", ["--steps: got 0", "--warmup: got -1"]),
        (kernels.main, "--preset tiny --tokens 50 --repeat 0", ["--tokens: got 50", "--repeat: got 0"]),
        (suite.main, "--only nothing --minutes -1", ["--minutes: got -1", "--only: got nothing, expected a word of"]),
        (scaling.main, "--tokens 0 --mfu 2", ["--tokens: got 0", "--mfu: got 2, expected a share"]),
        (scaling.main, "--run 16 --hostfile none", ["--hostfile: got none, expected a file"]),
        (scaling.main, "--run 0 16", ["--run: got 0", "--run: got 16, expected at most 8 on one node"]),
    ],
)
def test_commands_end_with_status_2_and_say_all_of_it(command, line, flags, tmp_path, capsys):
    assert command([*line.split(), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert all(flag in said for flag in flags)
    assert said.count("\n") == len(flags)


def test_an_unknown_preset_is_refused(capsys):
    with pytest.raises(SystemExit) as left:
        scaling.main(["--preset", "tiny2"])
    assert left.value.code == 2
    assert "--preset: invalid choice: 'tiny2'" in capsys.readouterr().err


@pytest.mark.parametrize("error", [EngineError("no compiler is here"), OutOfMemory("out of memory at pack 3")])
def test_what_ends_a_measurement_is_said_without_a_traceback(error, tmp_path, monkeypatch, capsys):
    def end(*ignored):
        raise error

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("trainer.bench.__main__.measure", end)
    assert main(["--preset", "tiny", "--stage", "align", "--tokens", "600", "--out", str(tmp_path / "f.json")]) == 1
    assert str(error) in capsys.readouterr().err
    assert not (tmp_path / "f.json").exists()
