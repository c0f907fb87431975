"""How far a run is, by its files alone."""

import json
import math
import time
from pathlib import Path

import pytest

from slurm.progress import last_sign_of_life, read_metrics, saved, training_progress
from slurm.spec import Work
from slurm.state import ElementState
from slurm.status import duration, element_line


def training(run_dir: Path) -> Work:
    return Work(name="t", command=("true",), run_dir=run_dir, steps=100)


def log_steps(run_dir: Path, count: int, *, seconds: float) -> None:
    run_dir.mkdir(exist_ok=True)
    begin = time.time() - count * seconds
    lines = [{"step": 2 * i, "time": begin + i * seconds, "loss/total": 1 / i} for i in range(1, count + 1)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_only_whole_checkpoints_and_the_end_count_as_saved(tmp_path):
    work = training(tmp_path)
    assert saved(work) == -1
    for name in ("step-000004", "step-000008.partial"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "manifest.txt").touch()
    (tmp_path / "checkpoints" / "step-000006").mkdir()
    assert saved(work) == 4
    (tmp_path / "summary.json").write_text('{"steps": 100}')
    assert saved(work) == 100


def test_files_are_the_progress_of_a_command(tmp_path):
    work = Work(name="c", command=("true",), progress=tmp_path / "out")
    assert saved(work) == -1
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "sub" / "0.tar").touch()
    assert saved(work) == 1
    assert saved(Work(name="c", command=("true",))) == -1


def test_time_left_follows_the_pace_of_the_last_steps(tmp_path):
    log_steps(tmp_path, 20, seconds=3.0)
    progress = training_progress(training(tmp_path))
    assert (progress.step, progress.steps, progress.loss) == (40, 100, 1 / 20)
    assert progress.seconds_left == pytest.approx(60 / 2 * 3.0)
    assert training_progress(training(tmp_path / "none")).seconds_left is None


def test_a_long_log_is_read_from_its_end_and_a_cut_line_is_left_out(tmp_path):
    log_steps(tmp_path, 4000, seconds=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99')
    tail = read_metrics(tmp_path, tail=True)
    assert tail[-1]["step"] == 8000
    assert len(tail) < 4000 == len(read_metrics(tmp_path))


def test_a_new_line_is_a_sign_of_life(tmp_path):
    now = time.time()
    assert last_sign_of_life(training(tmp_path / "none"), now) == now
    log_steps(tmp_path, 1, seconds=1.0)
    assert last_sign_of_life(training(tmp_path), 5.0) == pytest.approx(now, abs=60)


def test_a_status_line_says_state_step_loss_and_time_left(tmp_path):
    log_steps(tmp_path, 20, seconds=130.0)
    running = ElementState(state="running", reason="on n1", job="17", starts=3, crashes=1)
    assert element_line(training(tmp_path), running) == (
        "running    job 17  step 40/100  loss 0.0500  1h05m left  3 starts, 1 crashed  on n1"
    )


@pytest.mark.parametrize(("seconds", "text"), [(45, "45s"), (750, "12m"), (11_100, "3h05m"), (187_200, "2d04h")])
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_a_new_file_of_a_command_is_a_sign_of_life(tmp_path):
    work = Work(name="c", command=("true",), progress=tmp_path / "out")
    assert last_sign_of_life(work, 5.0) == 5.0
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "sub" / "0.tar").touch()
    assert last_sign_of_life(work, 5.0) == (tmp_path / "out" / "sub" / "0.tar").stat().st_mtime


def test_a_loss_that_is_no_number_is_shown_as_such_and_lines_without_one_do_not_hide_it(tmp_path):
    lines = [{"step": 1, "time": 1.0, "loss/total": 2.0}, {"step": 2, "time": 2.0, "validation/loss": 3.0}]
    write_lines(tmp_path, [*lines, 7, "text", {"other": 1}])
    assert training_progress(training(tmp_path)).loss == 2.0
    write_lines(tmp_path, [*lines, {"step": 3, "time": 3.0, "loss/total": None}])
    assert math.isnan(training_progress(training(tmp_path)).loss)


def write_lines(run_dir: Path, lines: list) -> None:
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_wait_for_a_requeued_start_does_not_count_as_pace(tmp_path):
    log_steps(tmp_path, 20, seconds=3.0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    write_lines(tmp_path, [line | {"time": line["time"] - 7200} if line["step"] < 36 else line for line in lines])
    assert training_progress(training(tmp_path)).seconds_left == pytest.approx(60 / 2 * 3.0)
