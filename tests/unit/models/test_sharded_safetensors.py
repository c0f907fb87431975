"""Sharded weights against the safetensors library and transformers, and what damaged files are called."""

import json

import pytest
import safetensors.torch
import torch
from transformers import LlamaForCausalLM

from models.presets import text_config
from models.safetensors_format import DTYPE_NAMES, WeightsFileError
from models.sharded_safetensors import INDEX_FILE, SINGLE_FILE, ShardedReader, ShardedWriter
from models.vlm import build_language


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """One tensor of each type, one without dimensions and an empty one; 1 and 3 elements make sizes odd."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        f"of.{name}": torch.randint(0, 2, (3, 1 + i), generator=generator).to(dtype)
        for i, (dtype, name) in enumerate(reversed(DTYPE_NAMES.items()))
    }
    return made | {"scalar": torch.tensor(2.5, dtype=torch.bfloat16), "empty": torch.zeros(0, 4)}


def write(directory, content, limit=10**9):
    return write_pairs(directory, content.items(), limit)


def write_pairs(directory, pairs, limit):
    with ShardedWriter(directory, max_shard_bytes=limit) as writer:
        for name, tensor in pairs:
            writer.add(name, tensor)
    return directory


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


def test_one_file_is_what_the_safetensors_library_reads(tmp_path):
    content = tensors()
    write(tmp_path, content)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE_FILE]
    loaded = safetensors.torch.load_file(tmp_path / SINGLE_FILE)
    assert set(loaded) == set(content)
    assert all(same(loaded[name], tensor) for name, tensor in content.items())
    with safetensors.safe_open(tmp_path / SINGLE_FILE, "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("as_file", [True, False])
def test_files_of_the_safetensors_library_are_read(tmp_path, as_file):
    content = tensors()
    safetensors.torch.save_file(content, tmp_path / SINGLE_FILE)
    reader = ShardedReader(tmp_path / SINGLE_FILE if as_file else tmp_path)
    assert set(reader.names) == set(content)
    for name, tensor in content.items():
        assert (reader.shape(name), reader.dtype(name)) == (tuple(tensor.shape), tensor.dtype)
        assert same(reader.tensor(name), tensor), name


def test_shards_come_back_through_the_index_in_the_order_written(tmp_path):
    content = tensors()
    write(tmp_path, content, limit=64)
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in content.values())
    assert not list(tmp_path.glob(".*"))
    reader = ShardedReader(tmp_path)
    assert reader.names == tuple(content)
    assert all(same(reader.tensor(name), tensor) for name, tensor in content.items())


def test_a_shard_holds_at_most_the_limit_unless_one_tensor_is_larger(tmp_path):
    sizes = [30, 30, 30, 300, 30, 60, 1]
    write(tmp_path, {f"t{i}": torch.zeros(size, dtype=torch.uint8) for i, size in enumerate(sizes)}, limit=90)
    index = json.loads((tmp_path / INDEX_FILE).read_text())["weight_map"]
    shards = [int(index[f"t{i}"][6:11]) for i in range(len(sizes))]
    assert shards == [1, 1, 1, 2, 3, 3, 4]


def test_transformers_loads_the_shards(tmp_path):
    model = build_language(text_config("tiny-lm", vocab_size=64), torch.Generator().manual_seed(0))
    model.config.save_pretrained(tmp_path)
    write(tmp_path, model.state_dict(), limit=200_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_the_writer_copies_what_it_is_given(tmp_path):
    with ShardedWriter(tmp_path / "out") as writer:
        weight = torch.ones(4, 6).t()
        writer.add("weight", weight)
        weight.zero_()
    assert torch.equal(ShardedReader(tmp_path / "out").tensor("weight"), torch.ones(6, 4))


@pytest.mark.parametrize("limit", [8, 1000])
def test_an_error_leaves_nothing(tmp_path, limit):
    pairs = [(name, torch.ones(2)) for name in "abca"]
    with pytest.raises(WeightsFileError, match="tensor 'a': got it twice"):
        write_pairs(tmp_path / "out", pairs, limit)
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_the_files_of_others(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsFileError, match=r"tensor 'a': got type torch\.complex64"), ShardedWriter(tmp_path) as w:
        w.add("a", torch.ones(2, dtype=torch.complex64))
    with pytest.raises(WeightsFileError, match="got no tensors"), ShardedWriter(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_weights_that_are_there_are_not_overwritten(tmp_path):
    write(tmp_path, {"a": torch.ones(2)})
    with pytest.raises(WeightsFileError, match=r"model\.safetensors: got a file, expected none"):
        ShardedWriter(tmp_path)
    assert torch.equal(ShardedReader(tmp_path).tensor("a"), torch.ones(2))


@pytest.mark.parametrize("kept", [0, 5, 40, 150, -1])
def test_a_truncated_file_is_refused_by_name(tmp_path, kept):
    file = write(tmp_path, {"a": torch.ones(20), "b": torch.zeros(7)}) / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(WeightsFileError, match=r"model\.safetensors: got .* expected .* truncated"):
        ShardedReader(tmp_path)


def test_a_file_cut_after_its_header_was_read_is_refused(tmp_path):
    write(tmp_path, {"a": torch.ones(20)})
    reader = ShardedReader(tmp_path)
    file = tmp_path / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(WeightsFileError, match="got 76 bytes at byte 96, expected 80"):
        reader.tensor("a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["a"].update(shape=[3]), "tensor 'a': got .*'shape': .3."),
        (lambda h: h["a"].update(dtype="F31"), "tensor 'a': got .*F31"),
        (lambda h: h["a"].update(shape="x"), "tensor 'a': got .*'x'"),
        (lambda h: h["a"].update(shape=[-2], data_offsets=[8, 0]), "tensor 'a'"),
        (lambda h: h["a"].pop("data_offsets"), "tensor 'a'"),
        (lambda h: h.update(a=3), "tensor 'a': got 3"),
        (lambda h: h["b"].update(data_offsets=[0, 8]), "got a tensor at byte"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, change, message):
    file = write(tmp_path, {"a": torch.ones(2), "b": torch.ones(2)}) / SINGLE_FILE
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(WeightsFileError, match=message):
        ShardedReader(tmp_path)


def test_a_path_without_weights_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(WeightsFileError, match=r"got no safetensors, expected a \.safetensors file"):
            ShardedReader(path)
    (tmp_path / SINGLE_FILE).write_bytes(b"PK" * 40)
    with pytest.raises(WeightsFileError, match="no safetensors file"):
        ShardedReader(tmp_path)


def test_a_tensor_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WeightsFileError, match="got no tensor 'z', expected one of a"):
        ShardedReader(write(tmp_path, {"a": torch.ones(1)})).tensor("z")


def test_everything_wrong_with_an_index_is_said_at_once(tmp_path):
    write(tmp_path, {name: torch.ones(2) for name in "abcd"}, limit=8)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    shards = list(index["weight_map"].values())
    (tmp_path / shards[0]).unlink()
    (tmp_path / shards[2]).write_bytes((tmp_path / shards[3]).read_bytes())
    index["weight_map"]["e"] = shards[1]
    index["weight_map"]["f"] = "../model.safetensors"
    del index["weight_map"]["b"]
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(WeightsFileError) as caught:
        ShardedReader(tmp_path)
    for part in (
        f"shard '{shards[0]}' is missing",
        "shard '../model.safetensors': expected the name of a file beside the index",
        f"not where the index says: 'c' in {shards[2]}, 'e' in {shards[1]}",
        f"tensors in two shards, expected each once: 'd' in {shards[2]} and {shards[3]}",
        "that the index does not name: b",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weight_map": {"a": "x", "a": "y"}}', "got a twice"),
        ('{"weight_map": {"a": 3}}', "field 'weight_map': got"),
        ('{"weight_map"', "got no JSON"),
        ("[]", "got JSON that is no object"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(WeightsFileError, match=message):
        ShardedReader(tmp_path)
