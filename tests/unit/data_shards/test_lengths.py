from dataclasses import replace

import pytest

from data_shards import lengths
from data_shards.chat import internlm2_chat, tokenize_frame
from data_shards.index import load_index
from data_shards.lengths import sample_sizes, shard_numbers, tile_sizes
from data_shards.plan import SampleSize
from data_shards.read import BadSample, read_frame
from data_shards.schema import CAMERAS
from data_shards.tiling import ViewLayout
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


def test_samples_know_their_shard(index):
    assert shard_numbers(index).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_tile_sizes_come_from_the_index_alone(index, tokenizer, reads):
    sizes = tile_sizes(index, LAYOUT)
    assert reads == []
    assert [size.tiles for size in sizes] == [size.tiles for size in sample_sizes(index, **options(tokenizer))]
    assert {(size.prefix_tokens, size.question_tokens) for size in sizes} == {(0, ())}


def test_an_image_without_header_is_named(tmp_path):
    (frame,) = frames(1, images=CAMERAS, seed=1)
    images = dict(frame.images)
    images["CAM_BACK"] = b"no image"
    write_shards([replace(frame, images=images)], tmp_path / "d", source="test", licence="none")
    with pytest.raises(BadSample, match="shard-000000.tar.*scene1_000: image 4: got no JPEG header"):
        tile_sizes(load_index(tmp_path / "d"), LAYOUT)
