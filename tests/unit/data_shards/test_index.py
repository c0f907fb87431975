"""The index of shards: true to the bytes, made where it lacks, and strict where tar readers are not."""

import errno
import hashlib
import json
import os
import tarfile
import tracemalloc
from base64 import b64encode
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest

from data_shards.checked_json import dump_checked, load_checked
from data_shards.dataset_file import read_dataset_file, write_dataset_file
from data_shards.entries import ShardError
from data_shards.index import index_path, load_index, shard_is_whole, write_index
from data_shards.lint import lint
from data_shards.rebuild import rebuild_index
from data_shards.scan import index_shard
from data_shards.schema import CAMERAS
from tests.helpers.frames import camera_frames, write_dataset
from tests.helpers.raw_tar import pack


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path, camera_frames())
    return tmp_path


def test_spans_point_at_the_members_data(dataset):
    index = load_index(dataset)
    assert len(index) == 6
    for entry in index.samples:
        content = (dataset / entry.shard).read_bytes()
        with tarfile.open(dataset / entry.shard) as archive:
            for suffix, span in entry.members.items():
                data = archive.extractfile(f"{entry.key}.{suffix}").read()
                assert content[span.offset : span.offset + span.size] == data
                assert span.sha256 == hashlib.sha256(data).hexdigest()


def test_counts_and_image_sizes_are_known_without_reading(dataset):
    for entry in load_index(dataset).samples:
        assert (entry.num_questions, entry.num_images) == (2, 6)
        assert entry.image_sizes == ((32, 18),) * 6
        assert set(entry.members) == {"json", *(f"{camera.lower()}.jpg" for camera in CAMERAS)}


def test_tars_of_others_are_indexed_once(dataset):
    expected = load_index(dataset)
    for path in [*dataset.glob("*.json")]:
        path.unlink()
    assert load_index(dataset) == expected
    stamps = {path: path.stat().st_mtime_ns for path in dataset.glob("*.index.json")}
    assert len(stamps) == 3
    assert load_index(dataset) == expected
    assert stamps == {path: path.stat().st_mtime_ns for path in dataset.glob("*.index.json")}


def test_tars_in_a_read_only_directory_are_indexed_in_memory(dataset, monkeypatch):
    expected = list(load_index(dataset).samples)
    for path in dataset.glob("*.index.json"):
        path.unlink()

    def refuse(path, data):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("data_shards.atomic.write_atomically", refuse)
    assert load_index(dataset).samples == expected
    assert not list(dataset.glob("*.index.json"))


def test_rebuilding_gives_the_same_index_and_takes_in_new_tars(dataset):
    before = load_index(dataset)
    index_path(dataset / "shard-000001.tar").write_text("{}")
    rebuild_index(dataset)
    assert load_index(dataset) == before
    pack(dataset / "zz.tar", [("a_b.json", _record("a_b"))])
    with pytest.raises(ShardError, match=r"zz\.tar.*not listed.*data_shards index"):
        load_index(dataset)
    assert rebuild_index(dataset).num_samples == 7
    assert load_index(dataset).samples[-1].key == "a_b"


def test_a_directory_without_tars_names_the_command_that_writes_them(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ShardError, match=f"{directory}.*python -m data_shards synthetic"):
            load_index(directory)


def test_the_parent_of_splits_names_a_split(tmp_path):
    write_dataset(tmp_path / "train", camera_frames())
    with pytest.raises(ShardError, match="train"):
        load_index(tmp_path)


def test_a_missing_listed_shard_is_named(dataset):
    (dataset / "shard-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"shard-000001\.tar.*missing \(1 of 3"):
        load_index(dataset)


def test_a_frame_in_two_shards_is_refused(dataset):
    (dataset / "dataset.json").unlink()
    (dataset / "copy.tar").write_bytes((dataset / "shard-000000.tar").read_bytes())
    with pytest.raises(ShardError, match=r"scene0_frame0 is also in copy\.tar"):
        load_index(dataset)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "shard": "shard-000000.tar", "samples": [1]}', "\0"])
@pytest.mark.parametrize("name", ["shard-000000.index.json", "dataset.json"])
def test_a_damaged_index_is_named_with_the_remedy(dataset, name, text):
    (dataset / name).write_text(text)
    with pytest.raises(ShardError, match=rf"{name}.*data_shards index"):
        load_index(dataset)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offsets", [-1] * 14),
        ("sizes", [2**63 - 1] * 14),
        ("questions", [2]),
        ("layout", [7, 7]),
        ("layouts", [["json"]]),
        ("digests", [0]),
        ("image_sizes", None),
    ],
)
def test_columns_that_do_not_fit_each_other_are_refused(dataset, name, value):
    path = dataset / "shard-000000.index.json"
    record = load_checked(path.read_bytes())[0]
    numbers = isinstance(value, list) and isinstance(value[0], int)
    record[name] = b64encode(np.array(value, "<i8").tobytes()).decode() if numbers else value
    path.write_bytes(dump_checked(record))
    with pytest.raises(ShardError, match=r"shard-000000\.index\.json: not a usable index"):
        load_index(dataset)


def test_shard_names_that_leave_the_directory_are_refused(dataset):
    path = dataset / "dataset.json"
    record = load_checked(path.read_bytes())[0]
    record["shards"][0]["name"] = "../../x.tar"
    path.write_bytes(dump_checked(record))
    with pytest.raises(ShardError, match="plain file names"):
        load_index(dataset)


def test_only_a_whole_shard_counts_as_whole(dataset):
    tar = dataset / "shard-000000.tar"
    assert shard_is_whole(tar, 2)
    assert not shard_is_whole(tar, 3)
    content = tar.read_bytes()
    tar.write_bytes(content[:-1])
    assert not shard_is_whole(tar, 2)
    tar.write_bytes(content)
    index_path(tar).write_text("{")
    assert not shard_is_whole(tar, 2)
    index_path(tar).unlink()
    assert not shard_is_whole(tar, 2)


def test_no_cut_of_a_tar_is_indexed_as_whole(dataset):
    tar = dataset / "shard-000000.tar"
    content = tar.read_bytes()
    rng = np.random.default_rng(0)
    used = len(content.rstrip(b"\0"))
    boundaries = range(0, used, 512)
    cuts = {int(cut) for cut in rng.integers(0, used, 40)} | {int(cut) for cut in rng.choice(boundaries, 40)}
    end = -(-used // 512) * 512
    assert end + 1024 <= len(content)
    for cut in [*sorted(cuts), end, end + 512]:
        tar.write_bytes(content[:cut])
        with pytest.raises(ShardError, match="shard-000000"):
            index_shard(tar)


def test_a_zeroed_or_flipped_header_is_not_the_end_of_a_tar(dataset):
    tar = dataset / "shard-000000.tar"
    content = tar.read_bytes()
    with tarfile.open(tar) as archive:
        headers = [info.offset for info in archive]
    assert len(headers) == 14
    for offset in headers:
        zeroed = content[:offset] + bytes(512) + content[offset + 512 :]
        flipped = content[: offset + 3] + bytes([content[offset + 3] ^ 1]) + content[offset + 4 :]
        for damaged in (zeroed, flipped):
            tar.write_bytes(damaged)
            with pytest.raises(ShardError, match="shard-000000"):
                index_shard(tar)


def _record(key):
    scene, frame = key.split("_")
    fields = {"key": key, "scene": scene, "frame": frame, "source": "t"}
    return json.dumps({**fields, "images": [], "questions": [], "key_object_infos": {}}).encode()


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([("a_b.jpg", b"x")], "'json' is missing"),
        ([("a_b.json", b"{")], "a_b"),
        ([("a_b.json", _record("a_b")), ("a_c.json", _record("a_c")), ("a_b.x", b"")], "next to each other"),
        ([("a_b.json", _record("a_b")), ("a_b.json", _record("a_b"))], "twice"),
        ([("d/a_b.json", _record("a_b"))], "expected a name"),
        ([("../a_b.json", _record("a_b"))], "expected a name"),
    ],
)
def test_a_tar_of_another_form_is_refused(tmp_path, members, text):
    pack(tmp_path / "x.tar", members)
    with pytest.raises(ShardError, match=text):
        index_shard(tmp_path / "x.tar")


SIZES = [
    b"\xff" * 12,
    b"\xff" * 11 + b"\0",
    b"\x80" + b"\xff" * 11,
    b"\x80" + bytes(5) + b"\xff" + bytes(5),
    b"7" * 11 + b"\0",
]
"""Of a header: -1, -256, 2^88 - 1, 255 TiB, 8 GiB."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"S"])
def test_sizes_and_kinds_that_no_tar_has_are_refused_with_the_tar_s_name(tmp_path, size, kind):
    pack(tmp_path / "x.tar", [("a_b.json", _record("a_b")), ("a_c.json", _record("a_c"))])
    content = bytearray((tmp_path / "x.tar").read_bytes())
    header = content[1024:1536]
    header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[1024:1536] = header
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ShardError, match=r"x\.tar"):
        index_shard(tmp_path / "x.tar")


def test_folders_and_files_without_a_suffix_are_no_samples(tmp_path):
    members = [("README", b"x"), ("._a_b.json", b"x"), ("a_b.json", _record("a_b"))]
    pack(tmp_path / "x.tar", members)
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        folder = tarfile.TarInfo("later")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    rebuild_index(tmp_path)
    assert [entry.key for entry in load_index(tmp_path).samples] == ["a_b"]
    assert lint(tmp_path, verify=True) == []


def test_a_folder_of_tars_without_any_sample_is_refused(tmp_path):
    pack(tmp_path / "x.tar", [("README", b"x")])
    with pytest.raises(ShardError, match="without a sample"):
        rebuild_index(tmp_path)
    assert not (tmp_path / "dataset.json").exists()


def test_shards_whose_writing_was_cut_short_are_not_made_a_whole_dataset(dataset):
    info = read_dataset_file(dataset)
    write_dataset_file(dataset, replace(info, complete=False, shards=()))
    (dataset / "shard-000002.tar").unlink()
    with pytest.raises(ShardError, match=r"cut short.*run the command that writes them again.*or remove dataset\.json"):
        rebuild_index(dataset)
    (dataset / "dataset.json").unlink()
    assert rebuild_index(dataset).num_samples == 4


def test_a_link_in_a_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("a_b.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ShardError, match="got a link"):
        index_shard(tmp_path / "x.tar")


def test_a_member_that_the_schema_does_not_know_is_indexed_and_counts_for_nothing(tmp_path):
    pack(tmp_path / "x.tar", [("a_b.json", _record("a_b")), ("a_b.pkl", b"cos\nsystem\n")])
    index = load_index(tmp_path)
    assert set(index.samples[0].members) == {"json", "pkl"}
    assert index.samples[0].num_images == 0


def damaged(content, rng, other):
    """One random fault: a flipped bit, a cut, a zeroed block, or the content of another file."""
    kind = int(rng.integers(4))
    place = int(rng.integers(len(content)))
    if kind == 0:
        return content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + bytes(len(content[place : place + 64])) + content[place + 64 :]
    return other


def test_two_hundred_single_faults_in_indexes_and_dataset_file_are_all_found_by_name(dataset):
    files = sorted(dataset.glob("*.json"))
    contents = {path: path.read_bytes() for path in files}
    assert len(files) == 4
    rng = np.random.default_rng(0)
    for i in range(200):
        path = files[i % 4]
        path.write_bytes(damaged(contents[path], rng, contents[files[(i + 1 + int(rng.integers(3))) % 4]]))
        with pytest.raises(ShardError, match=path.name.replace(".", r"\.")):
            load_index(dataset)
        path.write_bytes(contents[path])
    assert len(load_index(dataset)) == 6


def test_an_index_of_an_older_copy_of_its_shard_is_refused(tmp_path):
    write_dataset(tmp_path / "a", camera_frames())
    write_dataset(tmp_path / "b", [replace(frame, objects={}) for frame in camera_frames()])
    name = "shard-000001.index.json"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(ShardError, match=rf"{name}: the index is of a tar with checksum"):
        load_index(tmp_path / "a")


def test_an_index_replaced_while_in_use_is_refused(dataset):
    index = load_index(dataset)
    write_index(dataset / "shard-000001.tar", index_shard(dataset / "shard-000000.tar"))
    assert index.samples[0].key == "scene0_frame0"
    with pytest.raises(ShardError, match=r"shard-000001\.index\.json: the index was replaced"):
        index.samples[2]


def test_only_the_shards_in_use_stay_in_memory(dataset, monkeypatch):
    expected = list(load_index(dataset).samples)
    monkeypatch.setattr("data_shards.samples.TABLES_IN_MEMORY", 1)
    index = load_index(dataset)
    assert [index.samples[i] for i in (5, 0, 3, 1, -1)] == [expected[i] for i in (5, 0, 3, 1, 5)]
    assert index.samples[1:4] == expected[1:4]
    assert len(index.samples._tables) == 1
    assert list(index.samples) == expected
    assert index.num_questions == 12
    with pytest.raises(IndexError):
        index.samples[6]


def test_an_index_survives_being_sent_to_another_process(dataset):
    index = load_index(dataset)
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        assert pool.submit(list, index.samples).result() == list(index.samples)
        assert pool.submit(_same, index).result() == index


def _same(index):
    return index


def test_loading_costs_under_a_hundred_bytes_a_sample(tmp_path):
    template = write_dataset(tmp_path / "one", camera_frames()[:1]).samples[0]
    for shard in range(70):
        tar = tmp_path / f"shard-{shard:06d}.tar"
        tar.write_bytes(b"")
        write_index(tar, [replace(template, key=f"s{shard}_{i}", shard=tar.name) for i in range(200)])
    tracemalloc.start()
    index = load_index(tmp_path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(index) == 14_000
    assert held / len(index) < 100
