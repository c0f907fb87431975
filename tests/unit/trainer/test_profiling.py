"""Traces of the chosen steps, and of no other."""

import gzip
import json

import torch

from trainer.profiling import StepProfile
from trainer.recipe import ProfileSection


def run(tmp_path, settings, steps, rank=0, say=print):
    with StepProfile(settings, tmp_path, rank, say) as profile:
        paths = []
        for step in steps:
            profile.begin(step)
            torch.ones(step, 3) @ torch.ones(3, 5)
            paths.append(profile.end(step))
    return paths


def matmul_rows(path):
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    shapes = [event["args"]["Input Dims"][0] for event in events if event.get("name") == "aten::mm"]
    return sorted(shape[0] for shape in shapes)


def test_the_trace_holds_the_chosen_steps_and_no_other(tmp_path):
    paths = run(tmp_path, ProfileSection(start=3, steps=2), range(1, 7), rank=5)
    path = tmp_path / "profile" / "steps_3-4.rank_5.json.gz"
    assert paths == [None, None, None, path, None, None]
    assert matmul_rows(path) == [3, 4]


def test_a_run_that_stops_within_them_leaves_those_it_did(tmp_path):
    run(tmp_path, ProfileSection(start=2, steps=9), range(1, 4))
    assert matmul_rows(tmp_path / "profile" / "steps_2-3.rank_0.json.gz") == [2, 3]


def test_a_run_that_goes_on_within_them_begins_there(tmp_path):
    run(tmp_path, ProfileSection(start=2, steps=3), range(4, 7))
    assert matmul_rows(tmp_path / "profile" / "steps_4-4.rank_0.json.gz") == [4]


def test_nothing_is_profiled_unless_it_is_asked_for(tmp_path):
    run(tmp_path, ProfileSection(), range(8, 14))
    assert not (tmp_path / "profile").exists()


def test_a_trace_that_finds_no_room_ends_no_run(tmp_path):
    said = []
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "steps_2-3.rank_0.json.gz").symlink_to("/dev/full")
    assert run(tmp_path, ProfileSection(start=2, steps=2), range(1, 5), say=said.append) == [None] * 4
    assert len(said) == 1
    assert "could not be written: [Errno 28]" in said[0]
