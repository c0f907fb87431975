"""Reading by offset: any damage is named, and no frame ever takes another's images."""

import copy
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from data_shards import read
from data_shards.index import load_index
from data_shards.read import BadSample, read_frame, unknown_members
from data_shards.schema import MAX_IMAGE_BYTES, MAX_RECORD_BYTES, frame_to_json
from data_shards.storage import LocalFiles
from tests.helpers.frames import camera_frames, read_all, write_dataset
from tests.helpers.raw_tar import raw_dataset, with_entry

FRAMES = camera_frames()


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path, FRAMES, samples_per_shard=3)
    return tmp_path


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
    index = load_index(dataset)
    swapped = replace(index.samples[0], members=index.samples[1].members)
    with pytest.raises(BadSample, match=r"got 'scene0_frame1', expected 'scene0_frame0'"):
        read_frame(with_entry(index, 0, swapped), 0)


def test_an_image_of_another_frame_in_the_index_is_refused(dataset):
    index = load_index(dataset)
    first, third = index.samples[0], index.samples[2]
    mixed = replace(first, members={**first.members, "cam_back.jpg": third.members["cam_back.jpg"]})
    with pytest.raises(BadSample, match="not next to the others"):
        read_frame(with_entry(index, 0, mixed), 0)


def moved(index, suffix, **changes):
    entry = index.samples[0]
    return with_entry(
        index, 0, replace(entry, members={**entry.members, suffix: replace(entry.members[suffix], **changes)})
    )


def test_an_offset_beyond_the_tar_is_refused_without_reading(dataset):
    index = load_index(dataset)
    entry = index.samples[0]
    members = {s: replace(span, offset=span.offset + 10**15) for s, span in entry.members.items()}
    with pytest.raises(BadSample, match="got 0 bytes, expected"):
        read_frame(with_entry(index, 0, replace(entry, members=members)), 0)


@pytest.mark.parametrize(("suffix", "most"), [("json", MAX_RECORD_BYTES), ("cam_back.jpg", MAX_IMAGE_BYTES)])
def test_a_member_of_absurd_size_is_refused_without_reading(dataset, suffix, most):
    index = moved(load_index(dataset), suffix, size=10**15)
    with pytest.raises(BadSample, match=f"member '{suffix}': got 1000000000000000 bytes, expected at most {most}"):
        read_frame(index, 0)


def test_overlapping_members_are_refused(dataset):
    index = load_index(dataset)
    json_span = index.samples[0].members["json"]
    with pytest.raises(BadSample, match="not next to the others"):
        read_frame(moved(index, "cam_back.jpg", offset=json_span.offset, sha256=json_span.sha256), 0)


def record(**changes):
    frame = FRAMES[0]
    return json.dumps({**json.loads(frame_to_json(frame)), "images": [], **changes}).encode()


DEEP = b'{"key": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
QUESTION = {"question": "a", "answer": "b", "type": "planning", "tag": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "does not parse"),
        (b"\xff\xfe", "does not parse"),
        (b"[]", "got list, expected an object"),
        (DEEP, "does not parse"),
        (b'{"key": ' + b"1" * 5000 + b"}", "does not parse"),
        (record(questions=3), "field 'questions': got int, expected list"),
        (record(questions=[{**QUESTION, "type": "poem"}]), "got 'poem'"),
        (record(questions=[{**QUESTION, "tag": ["x"]}]), "field 'tag'"),
        (record(questions=[{**QUESTION, "tag": [7]}]), r"got \[7\], expected numbers 0 to 3"),
        (record(images=["CAM_FRONT"]), "field 'images'"),
        (record(images=["../../x"]), "field 'images'"),
    ],
)
def test_a_record_of_another_form_is_refused(tmp_path, text, message):
    index = raw_dataset(tmp_path, {"scene0_frame0": {"json": text}})
    with pytest.raises(BadSample, match=message) as caught:
        read_frame(index, 0)
    assert (caught.value.shard, caught.value.key) == ("shard-000000.tar", "scene0_frame0")


def test_members_that_the_schema_does_not_know_are_named_and_not_looked_at(tmp_path):
    index = raw_dataset(tmp_path, {"scene0_frame0": {"json": record(), "pyd": b"import os", "../x.jpg": b"\xff\xd8"}})
    assert unknown_members(index.samples[0]) == ["pyd", "../x.jpg"]
    assert read_frame(index, 0).images == {}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["shard-000000.tar"]


def test_a_shard_name_cannot_leave_the_directory(tmp_path):
    inside = raw_dataset(tmp_path / "inside", {"scene0_frame0": {"json": record()}})
    index = with_entry(inside, 0, replace(inside.samples[0], shard="../inside/shard-000000.tar"))
    with pytest.raises(BadSample, match="expected the plain name of a file"):
        read_frame(index, 0)


def test_a_frame_is_read_in_one_piece(dataset, monkeypatch):
    index = load_index(dataset)
    reads = []

    class Watched(LocalFiles):
        def read(self, name, offset, size):
            reads.append((name, size))
            return super().read(name, offset, size)

    monkeypatch.setattr(read, "storage_of", lambda index: Watched(index.root))
    assert read_frame(index, 4) == FRAMES[4]
    assert read_frame(index, 4, with_images=False).questions == FRAMES[4].questions
    assert [name for name, _ in reads] == ["shard-000001.tar"] * 2
    assert reads[1][1] == index.samples[4].members["json"].size < reads[0][1]


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
