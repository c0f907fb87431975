"""Where ranks compute, on machines with and without GPUs."""

import os

import pytest
import torch

from trainer import dist


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("DS_ACCELERATOR")


def test_a_rank_computes_on_its_own_gpu(two_gpus):
    assert dist.num_gpus() == 2
    assert dist.compute_device(1) == torch.device("cuda", 1)


def test_the_cpu_is_taken_where_it_is_asked_for_as_deepspeed_does(two_gpus, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert dist.num_gpus() == 0
    assert dist.compute_device(1) == torch.device("cpu")


def test_a_group_on_the_cpu_touches_no_gpu(two_gpus, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: pytest.fail("a GPU is set"))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    ranks = dist.init()
    try:
        assert torch.distributed.get_backend() == "gloo"
        assert ranks.device() == torch.device("cpu")
    finally:
        dist.teardown()


@pytest.fixture
def before_the_network(two_gpus, monkeypatch):
    """`init` ends where ranks would meet; what it has set by then is taken back."""
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)

    def meet(backend, timeout):
        raise torch.distributed.DistNetworkError(f"{backend}, device {taken}")

    monkeypatch.setattr(torch.distributed, "init_process_group", meet)


def test_segments_of_the_allocator_grow_unless_it_is_told_otherwise(before_the_network, monkeypatch):
    with pytest.raises(dist.DistError, match=r"nccl, device \[1\]"):
        dist.init()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")
    with pytest.raises(dist.DistError):
        dist.init()
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_more_ranks_than_gpus_are_refused_with_what_to_do(two_gpus, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(dist.DistError, match=r"local rank 2: got 2 GPUs .* --num_gpus 2\), or set DS_ACCELERATOR=cpu"):
        dist.init()
