"""What a start comes to, and whether the job goes on."""

import pytest

from slurm import attempts as records
from slurm.attempts import CRASHED, DONE, ENDED_BY_SLURM, OPEN, REFUSED, STOPPED, Attempts, Decision, judge, limit
from tests.unit.slurm.samples import record, spec, start


def test_a_start_is_done_only_if_every_rank_is():
    assert judge(spec(), [record(0, 0), record(1, 0)], 0, "RUNNING") == Decision(outcome=DONE, status=0)
    assert judge(spec(), [record(0, 0)], 0, "RUNNING").outcome == CRASHED


def test_ranks_that_saved_on_a_signal_are_requeued():
    decision = judge(spec(), [record(0, 75, signals=("SIGUSR2",)), record(1, 75)], 0, "RUNNING")
    assert (decision.outcome, decision.requeue, decision.reason) == (STOPPED, True, "saved on SIGUSR2")


def test_the_first_crash_gives_the_reason_and_a_killed_rank_comes_before_those_that_missed_it():
    ranks = [record(0, 1, reason="connection closed", ended=1.0), record(1, -9, ended=2.0)]
    decision = judge(spec(), ranks, 1, "RUNNING")
    assert (decision.outcome, decision.requeue, decision.bad_node) == (CRASHED, True, "n1")
    assert decision.reason == "rank 1 on n1: signal 9 (killed, often for lack of memory)"


def test_a_hang_blames_no_node():
    decision = judge(spec(), [record(0, -9, reason="no step", blames_node=False)], 1, "RUNNING")
    assert (decision.outcome, decision.bad_node) == (CRASHED, "")


def test_ranks_without_a_record_are_a_crash():
    decision = judge(spec(), [record(1, 75)], 137, "RUNNING")
    assert (decision.outcome, decision.requeue) == (CRASHED, True)
    assert "rank 0 left no record" in decision.reason
    assert "137" in decision.reason


def test_a_wrong_recipe_is_not_started_again():
    decision = judge(spec(), [record(0, 2, reason="error: steps"), record(1, 1)], 1, "RUNNING")
    assert (decision.outcome, decision.requeue, decision.status) == (REFUSED, False, 2)


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", ""])
def test_what_slurm_ends_itself_is_left_to_it(state):
    decision = judge(spec(), [record(0, 75), record(1, 75)], 75, state)
    assert (decision.outcome, decision.requeue) == (ENDED_BY_SLURM, False)


def test_crashes_end_at_their_limit_and_the_reason_is_kept():
    crash = Decision(outcome=CRASHED, reason="rank 1: signal 9", requeue=True)
    progress = [start(i, CRASHED, saved=(i, i + 1)) for i in range(3)]
    assert limit(spec(max_crashes=2), Attempts(starts=tuple(progress[:2])), crash).requeue
    last = limit(spec(max_crashes=2), Attempts(starts=tuple(progress)), crash)
    assert not last.requeue
    assert last.reason == "rank 1: signal 9; not requeued: crash 3 of at most 2"


def test_starts_without_progress_end_at_their_limit_and_progress_begins_the_count_anew():
    stop = Decision(outcome=STOPPED, requeue=True, status=75)
    idle = [start(0, STOPPED), start(1, STOPPED)]
    assert not limit(spec(max_stalls=2), Attempts(starts=tuple(idle)), stop).requeue
    assert limit(spec(max_stalls=2), Attempts(starts=(idle[0], start(1, STOPPED, saved=(0, 3)))), stop).requeue
    assert limit(spec(max_stalls=2), Attempts(starts=(start(0, STOPPED, saved=(0, 3)), idle[1])), stop).requeue


def test_starts_of_an_earlier_submission_do_not_count():
    attempts = Attempts(starts=(start(0, CRASHED, job="6"), start(1, CRASHED)))
    assert (attempts.crashes, attempts.of("7").crashes, attempts.of("8").stalls) == (2, 1, 0)


def test_a_start_that_was_never_closed_is_closed_as_killed(tmp_path):
    attempts = Attempts(starts=(start(0, STOPPED), start(1, OPEN, ended=None, saved=(2, -1))))
    closed = records.close_open(attempts, saved_now=4, now=9.0)
    assert closed.starts[0] == attempts.starts[0]
    assert (closed.starts[1].outcome, closed.starts[1].saved_after, closed.starts[1].ended) == (ENDED_BY_SLURM, 4, 9.0)
    records.save_attempts(tmp_path, 0, closed)
    assert records.load_attempts(tmp_path, 0) == closed


def test_ranks_that_did_not_save_before_the_limit_ask_for_more_time():
    decision = judge(spec(), [record(1, 75)], 137, "TIMEOUT")
    assert (decision.outcome, decision.requeue) == (CRASHED, True)
    assert "killed at the time limit before it had saved, give more --signal-lead-s" in decision.reason
