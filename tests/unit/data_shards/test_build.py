"""Writing shards in processes: the same bytes as in one, and a restart that goes on where it stopped."""

import os
import shutil
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from data_shards.build import DatasetJob, ShardJob, build_dataset
from data_shards.entries import LeftOut, ShardError
from data_shards.index import index_path, load_index
from tests.helpers.frames import camera_frame


def make(scene, failing=False):
    yield camera_frame(scene, "f0")
    if failing:
        raise OSError("disk full")
    yield camera_frame(scene, "f1")


def job(directory, *, scenes=3, failing=(), **build):
    shards = [ShardJob(number=i, num_frames=2, make_frames=partial(make, f"s{i}", i in failing)) for i in range(scenes)]
    return DatasetJob(out_dir=directory, source="test", licence="none", build={"seed": 0, **build}, shards=shards)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_two_processes_write_the_bytes_that_one_writes(tmp_path):
    one = build_dataset(job(tmp_path / "one"))
    two = build_dataset(job(tmp_path / "two"), workers=2)
    assert one == two
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [entry.key for entry in load_index(tmp_path / "two").samples] == [
        f"s{i}_f{j}" for i in range(3) for j in range(2)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_run_goes_on_where_it_stopped(tmp_path, workers):
    with pytest.raises(OSError, match="disk full"):
        build_dataset(job(tmp_path / "a", failing=(2,)), workers=workers)
    with pytest.raises(ShardError, match="cut short"):
        load_index(tmp_path / "a")
    left = {name for name in contents(tmp_path / "a") if name.endswith(".tar")}
    assert "shard-000002.tar" not in left
    (tmp_path / "a" / ".shard-000002.tar.1.partial").write_bytes(b"left by a killed run")
    build_dataset(job(tmp_path / "a"), workers=workers)
    build_dataset(job(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_whole_shard_is_kept_and_any_other_written_again(tmp_path):
    build_dataset(job(tmp_path))
    expected = contents(tmp_path)
    tars = [tmp_path / f"shard-00000{i}.tar" for i in range(3)]
    kept = tars[0].stat().st_ino
    tars[1].write_bytes(tars[1].read_bytes()[:700])
    index_path(tars[2]).unlink()
    build_dataset(job(tmp_path))
    assert contents(tmp_path) == expected
    assert tars[0].stat().st_ino == kept


def test_a_restart_with_other_arguments_is_refused_by_name(tmp_path):
    build_dataset(job(tmp_path))
    before = contents(tmp_path)
    with pytest.raises(ShardError, match=r"field 'seed': got 0, expected 1"):
        build_dataset(job(tmp_path, seed=1))
    assert contents(tmp_path) == before


def test_a_directory_of_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ShardError, match=r"--out.*notes\.txt"):
        build_dataset(job(tmp_path))
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def slowly(scene):
    for frame in make(scene):
        time.sleep(0.004)
        yield frame


def slow_job(directory):
    shards = [ShardJob(number=i, num_frames=2, make_frames=partial(slowly, f"s{i}")) for i in range(12)]
    return DatasetJob(out_dir=directory, source="test", licence="none", build={}, shards=shards)


def test_a_build_killed_at_twenty_random_moments_ends_with_the_same_bytes(tmp_path):
    begin = time.monotonic()
    build_dataset(slow_job(tmp_path / "whole"), show_progress=False)
    duration = time.monotonic() - begin
    rng = np.random.default_rng(0)
    killed = 0
    for _ in range(20):
        child = os.fork()
        if child == 0:
            try:
                build_dataset(slow_job(tmp_path / "killed"), show_progress=False)
            finally:
                os._exit(0)
        time.sleep(duration * 0.3 * rng.random())
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            killed += 1
        else:  # it was done before: all of it once more, and a kill sooner
            shutil.rmtree(tmp_path / "killed")
            duration /= 2
    assert killed >= 3
    build_dataset(slow_job(tmp_path / "killed"), show_progress=False)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def make_some(scene):
    yield from make(scene)
    yield LeftOut(lines=(3, 4), field="image", got="nothing", expected="a file")


def test_rows_left_out_are_counted_and_a_shard_with_them_is_whole(tmp_path):
    shards = [ShardJob(number=0, num_frames=3, make_frames=partial(make_some, "s0"))]
    one = DatasetJob(out_dir=tmp_path, source="test", licence="none", build={}, shards=shards, max_left_out=2)
    with pytest.raises(ShardError, match=r"got 2 rows.*at most 1(.|\n)*line 3: field 'image'"):
        build_dataset(replace(one, max_left_out=1))
    with pytest.raises(ShardError, match="cut short"):
        load_index(tmp_path)
    kept = (tmp_path / "shard-000000.tar").stat().st_ino
    assert build_dataset(one).left_out == 2
    assert (tmp_path / "shard-000000.tar").stat().st_ino == kept
    assert len(load_index(tmp_path)) == 2
