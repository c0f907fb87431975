import re
from dataclasses import replace

import pytest

from data_shards import lengths
from data_shards.chat import internlm2_chat, tokenize_frame
from data_shards.index import load_index
from data_shards.lengths import _load, _store, count_samples, count_tiles, sample_sizes, shard_numbers, tile_sizes
from data_shards.mixture import SampleSize, SizeTable
from data_shards.read import BadSample, read_frame
from data_shards.schema import CAMERAS
from data_shards.view_layout import ViewLayout
from data_shards.write import write_shards
from tests.helpers.tokenizer import tiny_tokenizer
from tests.unit.data_shards.test_loader import frames

LAYOUT = ViewLayout(tile_size=28, max_tiles=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def index(tmp_path):
    made = [*frames(5, images=CAMERAS, seed=1), *frames(2, images=(), seed=2), *frames(2, images=("IMAGE_0",), seed=3)]
    write_shards(made, tmp_path / "data", source="test", licence="none", samples_per_shard=4)
    return load_index(tmp_path / "data")


def options(tokenizer, /, **changes):
    plain = {"tokenizer": tokenizer, "template": internlm2_chat(), "layout": LAYOUT, "tokens_per_tile": 4}
    return plain | changes


@pytest.fixture
def reads(monkeypatch):
    """Positions of the frames that are read."""
    positions = []

    def counted(index, position, **others):
        positions.append(position)
        return read_frame(index, position, **others)

    monkeypatch.setattr(lengths, "read_frame", counted)
    return positions


def test_sizes_equal_those_of_the_tokenised_frames(index, tokenizer):
    expected = []
    for i, entry in enumerate(index.samples):
        tiles = [3] * entry.num_images  # 64x36 pixels: a 2x1 grid and a thumbnail
        tokens = tokenize_frame(read_frame(index, i), [4 * n for n in tiles], tokenizer, internlm2_chat())
        questions = tuple(len(s) for s in tokens.segments)
        expected.append(SampleSize(prefix_tokens=len(tokens.prefix), question_tokens=questions, tiles=sum(tiles)))
    assert list(sample_sizes(index, **options(tokenizer))) == expected
    assert {size.tiles for size in expected} == {18, 0, 3}


def test_lengths_counted_once_are_read_back(index, tokenizer, reads):
    first = list(sample_sizes(index, **options(tokenizer)))
    assert reads == list(range(9))
    assert len(list(index.root.glob("shard-00000?.lengths-*.npz"))) == 3
    assert list(sample_sizes(index, **options(tokenizer))) == first
    assert len(reads) == 9


@pytest.mark.parametrize("name", ["template", "layout", "tokens_per_tile", "tokenizer"])
def test_another_setting_is_counted_anew(index, tokenizer, reads, name, tmp_path):
    changes = {
        "template": lambda: internlm2_chat(system="You drive."),
        "layout": lambda: replace(LAYOUT, thumbnail=False),
        "tokens_per_tile": lambda: 9,
        "tokenizer": lambda: tiny_tokenizer(tmp_path, vocab_size=400),
    }
    first = list(sample_sizes(index, **options(tokenizer)))
    second = list(sample_sizes(index, **options(tokenizer, **{name: changes[name]()})))
    assert second != first
    assert len(reads) == 18
    assert list(sample_sizes(index, **options(tokenizer))) == first
    assert len(reads) == 18


def test_a_shard_written_anew_is_counted_anew(index, tokenizer, reads):
    sample_sizes(index, **options(tokenizer))
    for tar in index.root.glob("*.tar"):
        tar.unlink()
    write_shards(frames(9, images=(), seed=8), index.root, source="test", licence="none", samples_per_shard=4)
    again = sample_sizes(load_index(index.root), **options(tokenizer))
    assert len(reads) == 18
    assert {size.tiles for size in again} == {0}


def test_a_damaged_lengths_file_is_replaced(index, tokenizer, reads):
    first = list(sample_sizes(index, **options(tokenizer)))
    for path in index.root.glob("*.lengths-*.npz"):
        path.write_bytes(path.read_bytes()[:50])
    assert list(sample_sizes(index, **options(tokenizer))) == first
    assert len(reads) == 18


def test_no_flipped_bit_of_a_lengths_file_is_believed_or_ends_the_run(tmp_path):
    """zipfile takes some for another version or for encryption, and says so with errors of its own."""
    path, expected = (
        tmp_path / "x.npz",
        SizeTable.of(SampleSize(prefix_tokens=9, question_tokens=(5,), tiles=i) for i in (1, 2)),
    )
    _store(path, "digest", expected)
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << (place % 8))]) + content[place + 1 :])
        found = _load(path, "digest", 2)
        refused += found is None
        assert found is None or list(found) == list(expected)
    assert refused > len(content) / 2


def test_samples_know_their_shard(index):
    assert shard_numbers(index).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_tile_sizes_come_from_the_index_alone(index, tokenizer, reads):
    sizes = tile_sizes(index, LAYOUT)
    assert reads == []
    assert [size.tiles for size in sizes] == [size.tiles for size in sample_sizes(index, **options(tokenizer))]
    assert {(size.prefix_tokens, size.question_tokens) for size in sizes} == {(0, ())}


def test_an_image_without_header_is_named(tmp_path, tokenizer):
    good, bad = frames(2, images=CAMERAS, seed=1)
    images = {**bad.images, "CAM_BACK": b"no image"}
    write_shards([good, replace(bad, images=images)], tmp_path / "d", source="test", licence="none")
    index = load_index(tmp_path / "d")
    message = "shard-000000.tar: offset .*scene1_001: image 4: got no JPEG header"
    with pytest.raises(BadSample, match=message):
        tile_sizes(index, LAYOUT)
    for counted in (count_tiles(index, LAYOUT), count_samples(index, **options(tokenizer))):
        (error,) = counted.bad
        assert re.search(message, str(error))
        assert [size.tiles for size in counted.table] == [18, 0]


def test_frames_that_cannot_be_counted_have_no_question_and_are_named(index, tokenizer):
    sound = list(sample_sizes(index, **options(tokenizer)))
    for path in index.root.glob("*.lengths-*.npz"):
        path.unlink()
    tar = index.root / "shard-000001.tar"
    content = tar.read_bytes()
    damaged = bytearray(content)
    for position in (4, 6):
        damaged[index.samples[position].members["json"].offset] ^= 1
    tar.write_bytes(damaged)
    for _ in range(2):  # counted, then read back
        counted = count_samples(load_index(index.root), **options(tokenizer))
        assert [error.key for error in counted.bad] == [index.samples[i].key for i in (4, 6)]
        assert all(error.shard == tar.name and "sha256" in error.reason for error in counted.bad)
        empty = SampleSize(prefix_tokens=0, question_tokens=(), tiles=0)
        assert list(counted.table) == [empty if i in (4, 6) else size for i, size in enumerate(sound)]
    tar.write_bytes(content)  # mended: taken in again, without a new index
    assert list(sample_sizes(index, **options(tokenizer))) == sound


def test_a_special_token_in_a_text_makes_its_sample_unusable(tmp_path, tokenizer):
    (frame,) = frames(1, images=(), seed=1)
    asked = replace(frame.questions[0], question="What is </img>?")
    write_shards([replace(frame, questions=(asked,))], tmp_path / "d", source="test", licence="none")
    (error,) = count_samples(load_index(tmp_path / "d"), **options(tokenizer)).bad
    assert (error.shard, error.key) == ("shard-000000.tar", frame.key)
    assert "special token </img>" in error.reason


def test_processes_count_a_dataset_together_shard_by_shard(index, tokenizer, reads):
    counted = [count_samples(index, **options(tokenizer), share=(i, 2)) for i in (1, 0)]
    assert reads == [4, 5, 6, 7, 0, 1, 2, 3, 8]
    assert [len(own.table) for own in counted] == [4, 5]
    whole = count_samples(index, **options(tokenizer))
    assert len(reads) == 9
    assert list(whole.table) == [*counted[1].table][:4] + [*counted[0].table] + [*counted[1].table][4:]
