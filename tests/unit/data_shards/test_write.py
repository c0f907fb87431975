"""Shards as written: deterministic, whole or not there, and readable by stock webdataset."""

import hashlib
import tarfile
from dataclasses import replace

import pytest
import webdataset as wds

from data_shards.dataset_file import read_dataset_file
from data_shards.entries import ShardError
from data_shards.index import load_index
from data_shards.schema import CAMERAS, MAX_IMAGE_BYTES, MAX_RECORD_BYTES, SchemaError, frame_from_json, member_suffix
from data_shards.write import write_shards
from tests.helpers.frames import camera_frame, camera_frames, write_dataset


def test_stock_webdataset_reads_every_shard(tmp_path):
    frames = camera_frames(num_scenes=2, frames_per_scene=3)
    write_dataset(tmp_path, frames, samples_per_shard=4)
    urls = sorted(str(path) for path in tmp_path.glob("*.tar"))
    assert len(urls) == 2
    samples = list(wds.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [frame.key for frame in frames]
    for frame, sample in zip(frames, samples, strict=True):
        images = {camera: sample[member_suffix(camera)] for camera in CAMERAS}
        assert frame_from_json(sample["json"], images) == frame


def test_dataset_info_counts_what_was_written(tmp_path):
    info = write_shards(camera_frames(), tmp_path, source="test", licence="CC0", samples_per_shard=4)
    assert [shard.samples for shard in info.shards] == [4, 2]
    assert (info.num_samples, info.num_questions) == (6, 12)
    assert info.num_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert read_dataset_file(tmp_path) == info
    assert info.complete


def test_the_same_frames_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_dataset(tmp_path / name, camera_frames())
    digests = {
        name: {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / name).iterdir()}
        for name in ("a", "b")
    }
    assert digests["a"] == digests["b"]
    assert len(digests["a"]) == 3 + 3 + 1
    with tarfile.open(tmp_path / "a" / "shard-000000.tar") as archive:
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in archive} == {(0, 0, 0, "")}


def test_a_failing_source_leaves_no_partial_shard(tmp_path):
    def frames():
        yield camera_frame("scene0", "frame0")
        yield camera_frame("scene0", "frame1")
        yield camera_frame("scene0", "frame2")
        raise RuntimeError("source")

    with pytest.raises(RuntimeError, match="source"):
        write_shards(frames(), tmp_path, source="test", licence="none", samples_per_shard=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset.json",
        "shard-000000.index.json",
        "shard-000000.tar",
    ]
    with pytest.raises(ShardError, match="complete"):
        load_index(tmp_path)


def test_an_interrupted_shard_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_shards(camera_frames(), tmp_path, source="test", licence="none")
    assert list(tmp_path.iterdir()) == []


def test_later_shards_continue_a_directory(tmp_path):
    write_shards(camera_frames()[:2], tmp_path, source="test", licence="none", samples_per_shard=2)
    write_shards(camera_frames()[2:], tmp_path, source="test", licence="none", samples_per_shard=2, first_shard=1)
    assert [entry.key for entry in load_index(tmp_path).samples] == [frame.key for frame in camera_frames()]


def test_existing_shards_are_never_overwritten(tmp_path):
    write_dataset(tmp_path, camera_frames())
    with pytest.raises(ShardError, match="shard-000002.tar"):
        write_shards(camera_frames(), tmp_path, source="test", licence="none")


@pytest.mark.parametrize("samples_per_shard", [1, 10])
def test_a_key_that_occurs_twice_is_refused(tmp_path, samples_per_shard):
    frames = [camera_frame("scene0", "frame0"), camera_frame("scene0", "frame0", seed=1)]
    with pytest.raises(ShardError, match="scene0_frame0 occurs twice"):
        write_shards(frames, tmp_path, source="test", licence="none", samples_per_shard=samples_per_shard)


def test_a_frame_outside_the_schema_is_refused(tmp_path):
    frame = replace(camera_frame("scene0", "frame0"), key="other")
    with pytest.raises(SchemaError, match="key"):
        write_shards([frame], tmp_path, source="test", licence="none")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"source": "\ud800"}, "scene0_frame0: got half of a surrogate pair"),
        ({"source": "x" * (MAX_RECORD_BYTES + 1)}, "member 'json': got 1677.... bytes"),
        ({"images": {"CAM_BACK": bytes(MAX_IMAGE_BYTES + 1)}}, r"member 'cam_back\.jpg': got 67108865 bytes"),
    ],
)
def test_what_would_not_be_read_is_not_written(tmp_path, changes, text):
    frame = replace(camera_frame("scene0", "frame0"), **changes)
    with pytest.raises(SchemaError, match=text):
        write_shards([frame], tmp_path, source="test", licence="none")
    assert not list(tmp_path.glob("*.tar"))


def test_no_frames_are_refused(tmp_path):
    with pytest.raises(ShardError, match="no frame"):
        write_shards([], tmp_path, source="test", licence="none")


def test_a_frame_without_images_is_written(tmp_path):
    frame = replace(camera_frame("scene0", "frame0"), images={})
    index = write_dataset(tmp_path, [frame])
    assert index.samples[0].num_images == 0
    assert index.samples[0].image_sizes == ()
