"""Reading by offset: any damage is named, and no frame ever takes another's images."""

import copy
import json
import tarfile

import numpy as np
import pytest

from data_shards.index import load_index
from data_shards.quarantine import Quarantine
from data_shards.read import BadSample, read_frame
from tests.helpers.frames import camera_frames, write_dataset

FRAMES = camera_frames()


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path, FRAMES, samples_per_shard=3)
    return tmp_path


def read_all(index):
    """Position to frame or to the error it raised."""
    results = []
    for position in range(len(index)):
        try:
            results.append(read_frame(index, position))
        except BadSample as error:
            results.append(error)
    return results


def test_every_frame_is_read_as_written(dataset):
    assert read_all(load_index(dataset)) == FRAMES


def test_questions_are_read_without_images(dataset):
    frame = read_frame(load_index(dataset), 4, with_images=False)
    assert frame.questions == FRAMES[4].questions
    assert list(frame.images) == list(FRAMES[4].images)
    assert set(frame.images.values()) == {b""}


def test_one_flipped_byte_is_found_in_exactly_its_frame(dataset):
    index = load_index(dataset)
    tar = dataset / index.samples[0].shard
    content = tar.read_bytes()
    for position in range(3):
        for suffix, span in index.samples[position].members.items():
            where = span.offset + span.size // 2
            tar.write_bytes(content[:where] + bytes([content[where] ^ 16]) + content[where + 1 :])
            results = read_all(index)
            bad = results[position]
            assert isinstance(bad, BadSample)
            assert (bad.shard, bad.offset, bad.key) == (tar.name, span.offset, FRAMES[position].key)
            assert suffix in bad.reason
            assert "sha256" in bad.reason
            assert [result for i, result in enumerate(results) if i != position] == [
                frame for i, frame in enumerate(FRAMES) if i != position
            ]


def test_a_cut_tar_loses_frames_by_name_and_mixes_none(dataset):
    index = load_index(dataset)
    tar = dataset / index.samples[0].shard
    content = tar.read_bytes()
    rng = np.random.default_rng(0)
    with tarfile.open(tar) as archive:
        boundaries = [info.offset for info in archive]
    for cut in [0, *boundaries, *rng.integers(0, len(content), 30).tolist()]:
        tar.write_bytes(content[:cut])
        results = read_all(index)
        for position in range(3):
            end = max(span.offset + span.size for span in index.samples[position].members.values())
            if end <= cut:
                assert results[position] == FRAMES[position]
            else:
                assert isinstance(results[position], BadSample)
                assert results[position].key == FRAMES[position].key
                assert "cut short" in results[position].reason
        assert results[3:] == FRAMES[3:]


def test_exchanged_shards_give_no_frame_at_all(dataset):
    index = load_index(dataset)
    first, second = (dataset / f"shard-00000{i}.tar" for i in range(2))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert all(isinstance(result, BadSample) for result in read_all(index))


def test_a_frame_under_another_frames_key_is_refused(dataset):
    path = dataset / "shard-000000.index.json"
    record = json.loads(path.read_text())
    first, second = record["samples"][:2]
    first["members"], second["members"] = second["members"], first["members"]
    path.write_text(json.dumps(record))
    with pytest.raises(BadSample, match=r"got 'scene0_frame1', expected 'scene0_frame0'"):
        read_frame(load_index(dataset), 0)


def test_an_offset_beyond_the_tar_is_refused_without_reading(dataset):
    path = dataset / "shard-000000.index.json"
    record = json.loads(path.read_text())
    record["samples"][0]["members"]["json"][:2] = [10**15, 10**15]
    path.write_text(json.dumps(record))
    with pytest.raises(BadSample, match="got 0 bytes, expected 1000000000000000"):
        read_frame(load_index(dataset), 0)


def test_a_tar_that_vanished_is_named(dataset):
    index = load_index(dataset)
    (dataset / "shard-000001.tar").unlink()
    with pytest.raises(BadSample, match=r"shard-000001\.tar.*scene1_frame1.*does not open"):
        read_frame(index, 3)


def test_a_bad_sample_survives_pickling_and_raising_again_by_its_text():
    error = BadSample("got 3, expected 4", shard="s.tar", offset=512, key="a_b")
    twin = copy.copy(error)  # goes through __reduce_ex__, as pickling does
    assert str(twin) == str(error) == "s.tar: offset 512: frame a_b: got 3, expected 4"
    assert (twin.shard, twin.offset, twin.key, twin.reason) == ("s.tar", 512, "a_b", "got 3, expected 4")
    assert str(BadSample(str(error))) == str(error)


def test_quarantine_keeps_one_line_a_bad_sample(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    first = Quarantine(path)
    first.add(BadSample("got 3, expected 4", shard="s.tar", offset=512, key="a_b"))
    first.add(BadSample("ü", shard="s.tar", offset=0, key="a_c"))
    second = Quarantine(path)
    second.add(BadSample("later", shard="t.tar", offset=0, key="a_d"))
    assert (first.count, second.count) == (2, 1)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[0] == {"shard": "s.tar", "offset": 512, "key": "a_b", "reason": "got 3, expected 4"}
    assert [record["key"] for record in records] == ["a_b", "a_c", "a_d"]
