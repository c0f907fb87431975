"""Training state and stop requests."""

import json
import os
import signal
import subprocess

import psutil
import pytest

from trainer.state import StopRequest, TrainState, deepspeed_command, stop_on_signals


def test_state_survives_json_exactly():
    state = TrainState(step=3, position=12, seconds=0.1 + 0.2, samples=7.0).with_losses([1 / 3, 2 / 3])
    assert TrainState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_a_state_from_before_frames_left_out_were_counted_is_read():
    record = TrainState(samples=7.0, seen=7.0).to_json()
    del record["seen"], record["quarantined"]
    read = TrainState.from_json(record)
    assert (read.seen, read.quarantined) == (7.0, None)


def test_what_only_former_versions_kept_is_left_out():
    assert TrainState.from_json({**TrainState(step=4).to_json(), "best": 0.5}) == TrainState(step=4)


def test_ten_first_and_a_hundred_last_losses_are_kept():
    state = TrainState()
    for start in range(0, 120, 3):
        state = state.with_losses([float(start + i) for i in range(3)])
    assert state.first == tuple(map(float, range(10)))
    assert state.last == tuple(map(float, range(20, 120)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_signal_is_remembered_and_the_former_handler_comes_back(number):
    former = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal_name == number.name
    assert signal.getsignal(number) is former


def test_the_end_of_the_command_that_started_the_ranks_is_a_reason_to_stop():
    with subprocess.Popen(["sleep", "60"]) as command:
        stop = StopRequest(psutil.Process(command.pid))
        assert not stop
        command.kill()
        command.wait()
        assert stop
        assert "deepspeed command" in stop.reason


def test_a_process_that_deepspeed_did_not_start_watches_no_command():
    assert deepspeed_command() is None


def test_a_parent_that_may_not_be_looked_at_is_no_deepspeed_launcher(monkeypatch):
    class Hidden:
        def parent(self):
            raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil, "Process", Hidden)
    assert deepspeed_command() is None
