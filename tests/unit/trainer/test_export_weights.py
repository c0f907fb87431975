"""Sizes of shards, and weights written tensor by tensor."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig

from models.blanks import stored_vlm
from models.saving import save_model
from tests.unit.trainer.tiny_run import lively_vlm, tiny_tokenizer
from trainer.export_weights import num_parameters, size_in_bytes, write_weights


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("300KB", 300_000)])
def test_sizes_are_read_as_transformers_writes_them(text, size):
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "5", "0GB", "-1GB", "5TB", "GB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(ValueError, match="shard size: got"):
        size_in_bytes(text)


def test_no_shard_is_larger_than_asked_and_none_is_lost(tmp_path):
    vlm = lively_vlm(tiny_tokenizer(tmp_path))
    save_model(vlm, tmp_path / "model")
    write_weights(
        stored_vlm(tmp_path / "model"), tmp_path / "out", GenerationConfig(), dtype=None, max_shard_bytes=400_000
    )
    shards = [load_file(path) for path in sorted((tmp_path / "out").glob("*.safetensors"))]
    sizes = [sum(t.numel() * t.element_size() for t in shard.values()) for shard in shards]
    assert len(shards) > 2
    assert all(size <= 400_000 or len(shard) == 1 for size, shard in zip(sizes, shards, strict=True))
    assert sum(t.numel() for shard in shards for t in shard.values()) == num_parameters(vlm)
    saved = load_file(tmp_path / "model" / "model.safetensors")
    written = {name: tensor for shard in shards for name, tensor in shard.items()}
    assert written.keys() == saved.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in written.items())
