"""The suite goes on behind a part that fails or is too slow, and names it; its tables hold what was measured."""

import json

import pytest

from tests.helpers.paths import ROOT
from trainer.bench import suite
from trainer.bench.checks import bench_problems
from trainer.bench.options import bench_parser
from trainer.bench.suite import PartResult, run_part
from trainer.bench.suite_page import CHECKS
from trainer.bench.suite_parts import SuitePart, parts

FIGURES = {
    "seconds": {"vision forward": {"median": 0.25}, "step": {"median": 1.0}},
    "median_step_seconds": 1.0,
    "tokens_per_s": 1000.0,
    "tiles_per_s": 40.0,
    "questions_per_s": 200.0,
    "useful_mfu": 0.5,
    "teacher_mfu": None,
    "flop_shares": {"vision forward": 0.25, "language forward": 0.25, "language backward": 0.5},
    "memory": {"estimated": {"peak": 2**31}, "measured_peak": 2**30},
    "shares": {"data wait": 0.01, "communication": 0.02},
}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules that fail, sleep, or write figures given as their second argument."""
    (tmp_path / "fails_now.py").write_text("raise SystemExit('this is why')")
    (tmp_path / "sleeps_now.py").write_text("import time; print('began', flush=True); time.sleep(600)")
    (tmp_path / "writes_now.py").write_text("import sys; open(sys.argv[1], 'w').write(sys.argv[2])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(suite, "_LEAST_SECONDS", 0.5)
    return tmp_path


def writing(tmp_path, name, **changes):
    path = tmp_path / f"{name}.json".replace(" ", "_")
    return SuitePart(name=name, arguments=("writes_now", str(path), json.dumps(FIGURES | changes)), figures=path)


def test_a_failed_part_is_named_with_its_last_words_and_the_others_go_on(modules, monkeypatch):
    listed = [
        SuitePart(name="broken", arguments=("fails_now",)),
        writing(modules, "finetune"),
        writing(modules, "finetune, classic packs", questions_per_s=10.0),
        writing(modules, "finetune, transformers padded", questions_per_s=8.0),
        writing(modules, "align"),
        writing(modules, "mixture, classic packs", questions_per_s=12.0),
        writing(modules, "mixture, transformers padded", questions_per_s=6.0),
    ]
    monkeypatch.setattr(suite, "parts", lambda *args: listed)
    assert suite.main(["--preset", "tiny", "--out", str(modules / "out")]) == 1
    written = json.loads((modules / "out" / "suite.json").read_text())
    assert [row["status"] for row in written["parts"]] == ["failed", *["done"] * 6]
    page = (modules / "out" / "suite.md").read_text()
    assert "| broken | failed |" in page
    assert "this is why" in page
    assert "| questions/s, shared prefixes over classic packs | 20.00 |" in page
    assert "| questions/s, shared prefixes over transformers padded | 25.00 |" in page
    assert "| questions/s, classic packs over transformers padded (aim 1.3) | 1.25 |" in page
    assert "| questions/s in the mixture, classic packs over transformers padded (aim 1.3) | 2.00 |" in page
    assert "| share of align's useful FLOPs that forward passes are | 0.500 |" in page
    assert "| finetune | 1.000 | 1000 | 40 | 200 | 0.500 | 1.0 | 2.0 | 1.0% | 2.0% |" in page
    assert "377,956 questions, stage 2 | 31.5 |" in page


def test_a_slow_part_is_ended_with_all_it_started_and_what_has_no_time_is_left_out(modules):
    for seconds in (3.0, 60.0):
        slow = run_part(SuitePart(name="slow", arguments=("sleeps_now",)), seconds)
        if slow.said:  # else it had not come to that
            break
    assert slow.status == "too slow"
    assert slow.seconds < 300
    assert slow.said == ["began"]
    assert run_part(SuitePart(name="late", arguments=("fails_now",)), 0.1).status == "left out"


def test_figures_of_an_earlier_run_do_not_count(modules):
    part = SuitePart(name="broken", arguments=("fails_now",), figures=modules / "old.json")
    part.figures.write_text("{}")
    assert run_part(part, 30.0).figures is None


def test_each_part_has_a_limit_of_its_own(modules, monkeypatch):
    given = []

    def run(part, seconds):
        given.append(seconds)
        return PartResult(name=part.name, command="", status="skipped")

    listed = [SuitePart(name="slow", arguments=("sleeps_now",)), writing(modules, "finetune")]
    monkeypatch.setattr(suite, "parts", lambda *args: listed)
    monkeypatch.setattr(suite, "run_part", run)
    for minutes in ("2", "10", "30"):
        assert suite.main(["--preset", "tiny", "--minutes", minutes, "--out", str(modules / "out")]) == 0
    assert [round(seconds) for seconds in given] == [120, 120, 180, 180, 300, 300]


@pytest.mark.parametrize(
    ("last", "status"),
    [("68 skipped in 2.1s", "skipped"), ("60 passed, 8 skipped in 9s", "done"), ("5 passed in 9s", "done")],
)
def test_checks_that_all_skip_themselves_are_not_done(modules, last, status):
    (modules / "says_now.py").write_text(f"print('...'); print({last!r})")
    assert run_part(SuitePart(name=CHECKS, arguments=("says_now",)), 60.0).status == status
    assert run_part(SuitePart(name="another", arguments=("says_now",)), 60.0).status == "done"


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_every_part_is_a_command_of_this_project(gpus, tmp_path):
    listed = parts("drivlm-2b", tmp_path, 79.0, gpus, 8)
    assert len({part.name for part in listed}) == len(listed)
    assert len({part.figures for part in listed}) == len(listed)
    assert {part.arguments[0] for part in listed} == {"pytest", "trainer.bench", "trainer.bench.kernels"}
    assert sum(bool(part.launcher) for part in listed) == {0: 1, 1: 0, 8: 3}[gpus]
    assert (ROOT / "tests" / "gpu").is_dir()
    for part in listed:
        if part.arguments[0] == "trainer.bench":
            options = bench_parser(None).parse_args(part.arguments[1:])
            assert bench_problems(options, gpus=gpus) == []
            assert options.ds_config is None or options.ds_config.is_file()


def test_one_gpu_begins_with_the_headline_and_ends_with_the_slowest_configuration(tmp_path):
    names = [part.name for part in parts("drivlm-2b", tmp_path, None, 1, 8)]
    assert names[:5] == [
        CHECKS,
        "finetune",
        "finetune, classic packs",
        "finetune, transformers padded",
        "distill, cached targets",
    ]
    assert names[-3:] == ["finetune, zero2", "finetune, zero3", "finetune, zero3_offload"]
