"""Who is behind, and what a hang leaves on disk."""

import json
import subprocess
import sys
import time

from tests.helpers.paths import ROOT
from tests.helpers.waiting import TIMEOUT_S, wait_until
from trainer.watchdog import Status, Watchdog, behind, report


def status(beat=5, *, waiting=True, doing="forward", step=3):
    return Status(beat=beat, step=step, doing=doing, waiting=waiting, where="loop.py:1 f")


class _Board:
    def __init__(self):
        self.texts, self.cleared = {}, 0

    def put(self, rank, text):
        self.texts[rank] = text

    def clear(self, rank):
        self.cleared += 1

    def collect(self, seconds):
        return dict(self.texts)


class _Ranks:
    """Stands for the only rank."""

    rank, world_size = 0, 1

    def __init__(self):
        self.shown = _Board()

    def board(self, name):
        return self.shown


def test_a_silent_rank_is_behind_before_all_others():
    assert behind({0: status(), 2: status(1, waiting=False)}, 3) == [1]


def test_the_rank_with_fewest_signs_of_life_is_behind():
    assert behind({0: status(7), 1: status(6), 2: status(7)}, 3) == [1]


def test_of_ranks_at_the_same_place_the_one_that_waits_for_no_one_is_behind():
    assert behind({0: status(), 1: status(waiting=False), 2: status()}, 3) == [1]
    assert behind({0: status(), 1: status()}, 2) == []
    assert behind({0: status(waiting=False), 1: status(waiting=False)}, 2) == []


def test_the_report_names_ranks_and_what_they_do():
    text = report({0: status(), 1: status(waiting=False, doing="waiting for data")}, 2, 61.0)
    assert text.startswith("nothing has moved for 61 s; rank 1 is behind")
    assert "rank 1: step 3, waiting for data, waits for no one, at loop.py:1 f" in text
    assert "frozen, gone, or still at work" in report({0: status()}, 2, 61.0)
    assert "none waits for another" in report({0: status(waiting=False), 1: status(waiting=False)}, 2, 61.0)
    assert "perhaps not in the same one" in report({0: status(), 1: status()}, 2, 61.0)


def stand_still(end):
    wait_until(end)


def test_a_hang_leaves_stacks_and_a_report_and_life_goes_on(tmp_path):
    said, ranks, stacks = [], _Ranks(), tmp_path / "stacks" / "rank_0.txt"
    with Watchdog(ranks, tmp_path, hang_after=0.5, say=said.append) as watchdog:
        watchdog.beat(4, "forward and backward passes")
        stand_still(lambda: said and "in stand_still" in stacks.read_text())
        assert len(said) == 1
        assert json.loads(ranks.shown.texts[0])["doing"] == "forward and backward passes"
        wait_until(lambda: watchdog.beat(5, "waiting for data") or ranks.shown.cleared)
    assert "step 4, forward and backward passes" in said[0]


_AT_WORK = """
import sys
import time
from pathlib import Path

from tests.unit.trainer.test_watchdog import _Ranks
from trainer.watchdog import Watchdog


def recursed(depth):
    return 0 if depth == 0 else recursed(depth - 1) + 1


with Watchdog(_Ranks(), Path(sys.argv[1]), hang_after=0.002, say=lambda line: None) as watchdog:
    end = time.monotonic() + 6.0
    while time.monotonic() < end:
        watchdog.beat(1, "working")
        until = time.monotonic() + 0.06
        while time.monotonic() < until:
            recursed(300)
"""


def test_a_slow_rank_at_work_outlives_its_stacks(tmp_path):
    command = [sys.executable, "-c", _AT_WORK, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "stacks" / "rank_0.txt").read_text().count("in recursed") > 100


def test_steps_that_move_leave_nothing_behind(tmp_path):
    said = []
    with Watchdog(_Ranks(), tmp_path, hang_after=60.0, say=said.append) as watchdog:
        for step in range(20):
            watchdog.beat(step, "working")
            time.sleep(0.01)
        assert watchdog.waited() == 0.0
    assert not said
    assert not (tmp_path / "stacks").exists()


def test_a_watchdog_that_never_barks_has_no_limit(tmp_path):
    said = []
    with Watchdog(_Ranks(), tmp_path, hang_after=0.0, say=said.append) as watchdog:
        watchdog.beat(1, "working")
        time.sleep(0.2)
    assert not said
