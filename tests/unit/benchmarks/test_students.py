"""Steps of a study: run once, with what they need, several at a time; a failure names its log."""

import threading

import pytest

from benchmarks import students


@pytest.fixture
def executed(monkeypatch):
    """Commands that leave what they would make."""
    done = []

    def execute(arguments, log):
        words = [str(word) for word in arguments]
        done.append(words)
        if "trainer/run.py" in words:
            run_dir = log.with_name(log.name.removesuffix(".log"))
            (run_dir / "model").mkdir(parents=True)
            (run_dir / "summary.json").write_text("{}")
        else:
            out = log.parent / "answers.json"
            out.write_text("[]")

    monkeypatch.setattr(students, "execute", execute)
    return done


def test_a_stage_and_its_answers_are_made_once(executed, tmp_path):
    for _ in range(2):
        model = students.train("align", tmp_path / "view.0", ["steps=2"])
        students.answer(model, tmp_path / "val", tmp_path / "answers.json")
    assert len(executed) == 2
    assert executed[0][-1] == "steps=2"
    assert str(model) in executed[1]


def test_an_interrupted_stage_is_started_again(executed, tmp_path):
    (tmp_path / "run").mkdir()
    students.train("align", tmp_path / "run", ["steps=2"])
    assert len(executed) == 1


def test_a_world_of_other_questions_is_not_taken(executed, tmp_path):
    (tmp_path / "driving" / "val").mkdir(parents=True)
    (tmp_path / "driving" / "val" / "dataset.json").write_text('{"build": {"form": "both"}}')
    with pytest.raises(students.StepError, match="got questions of form both, expected positions"):
        students.make_world(tmp_path, scenes=4, held_out=2, seed=1, form="positions")
    assert not executed


def test_tasks_run_side_by_side_and_come_back_in_their_order():
    meeting = threading.Barrier(2, timeout=300)

    def work(number):
        meeting.wait()
        return 10 * number

    assert students.side_by_side(2, work, [1, 2, 3, 4]) == [10, 20, 30, 40]


def test_after_a_failure_nothing_new_is_begun():
    begun = []

    def work(number):
        begun.append(number)
        raise students.StepError(f"no {number}")

    with pytest.raises(students.StepError, match="no 1"):
        students.side_by_side(1, work, [1, 2, 3])
    assert begun == [1]


def test_a_command_that_fails_is_named_with_its_log(tmp_path):
    with pytest.raises(students.StepError, match=r"(?s)exit status 2 from.*steps.log"):
        students.execute(["-c", "import sys; print('why', file=sys.stderr); sys.exit(2)"], tmp_path / "steps.log")
    assert (tmp_path / "steps.log").read_text() == "why\n"


def test_a_command_computes_with_one_thread_and_no_rank(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    students.execute(["-c", "import os; print(os.environ['OMP_NUM_THREADS'], 'RANK' in os.environ)"], tmp_path / "log")
    assert (tmp_path / "log").read_text() == "1 False\n"
