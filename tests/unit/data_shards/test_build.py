"""Writing shards in processes: the same bytes as in one, and a restart that goes on where it stopped."""

from functools import partial

import pytest

from data_shards.build import DatasetJob, ShardJob, build_dataset
from data_shards.entries import ShardError
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
