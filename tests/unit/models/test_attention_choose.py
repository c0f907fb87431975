"""The choice of a backend on a machine without GPU, and the vision tower under what was chosen."""

import importlib.metadata

import pytest
import torch

from models.attention import AttentionError, choose_backend
from models.presets import vision_config
from models.vlm import build_vision

CPU = torch.device("cpu")
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")


def test_auto_on_the_cpu_is_sdpa_and_says_why():
    backend = choose_backend("auto", CPU, torch.float32, 64)
    assert (backend.name, backend.vision) == ("sdpa", "sdpa")
    assert backend.announcement == (
        "attention: sdpa (masked SDPA; vision: sdpa) on cpu, float32, head dim 64; "
        "not flash: needs a CUDA device, the models are on cpu; "
        "not varlen: needs a CUDA device, the models are on cpu; "
        "not flex: has no backward pass on the CPU"
    )


def test_a_backend_asked_for_is_taken_where_it_works():
    backend = choose_backend("flex", CPU, torch.float32, 64, training=False)
    assert backend.name == "flex"
    assert "not sdpa: not asked for" in backend.announcement


@pytest.mark.parametrize("wanted", ["flash", "varlen"])
def test_kernels_for_gpus_are_refused_on_the_cpu(wanted):
    expected = (
        f"attention: got '{wanted}', expected one of auto, sdpa here: "
        f"{wanted} needs a CUDA device, the models are on cpu"
    )
    with pytest.raises(AttentionError, match=f"^{expected}$"):
        choose_backend(wanted, CPU, torch.bfloat16, 64)


def test_flex_is_refused_for_training_on_the_cpu():
    with pytest.raises(AttentionError, match="got 'flex', expected one of auto, sdpa here: flex has no backward pass"):
        choose_backend("flex", CPU, torch.float32, 64)


def test_an_unknown_backend_names_the_nearest():
    with pytest.raises(AttentionError, match="got 'flush', expected one of auto, flash, .*; did you mean 'flash'"):
        choose_backend("flush", CPU, torch.float32, 64)


@needs_no_gpu
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(AttentionError, match="flash needs a CUDA device, torch sees none"):
        choose_backend("flash", torch.device("cuda"), torch.bfloat16, 64)


class FakeGpu:
    """A machine whose torch sees a GPU of some capability, with triton and flash-attn installed or not."""

    def __init__(self, monkeypatch, *, capability=(9, 0), flash=None, triton=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
        monkeypatch.setattr("models.attention.choose.triton_obstacle", lambda: None if triton else "needs triton")

        def version(name):
            if flash is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return flash

        monkeypatch.setattr("importlib.metadata.version", version)

    def choose(self, wanted="auto", dtype=torch.bfloat16, head_dim=128):
        return choose_backend(wanted, torch.device("cuda"), dtype, head_dim)


def test_without_the_package_a_gpu_gets_torchs_own_kernels(monkeypatch):
    backend = FakeGpu(monkeypatch).choose()
    assert (backend.name, backend.vision) == ("varlen", "sdpa")
    assert "not flash: needs the package flash-attn, which is not installed: pip install" in backend.announcement
    assert "not flex: comes later in the order; not sdpa: comes later in the order" in backend.announcement


def test_an_old_package_is_refused_by_its_version(monkeypatch):
    with pytest.raises(AttentionError, match=r"needs flash-attn from 2.7 to below 3, got 2.6.3"):
        FakeGpu(monkeypatch, flash="2.6.3").choose("flash")


def test_a_package_that_does_not_load_says_so(monkeypatch):
    monkeypatch.setattr("models.attention.choose.is_flash_attn_2_available", lambda: True)

    def broken():
        raise ImportError("undefined symbol")

    monkeypatch.setattr("models.attention.kernels.FlashAttention2.load", broken)
    with pytest.raises(AttentionError, match=r"cannot load flash-attn 2.8.3.post2 \(undefined symbol\); build it"):
        FakeGpu(monkeypatch, flash="2.8.3.post2").choose("flash")


def test_the_package_is_preferred_where_it_loads(monkeypatch):
    monkeypatch.setattr("models.attention.choose.is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr("models.attention.kernels.FlashAttention2.load", lambda: None)
    backend = FakeGpu(monkeypatch, flash="2.8.3.post2").choose()
    assert (backend.name, backend.vision) == ("flash", "flash_attention_2")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"dtype": torch.float32}, "needs bfloat16 or float16, got float32"),
        ({"head_dim": 100}, "needs a head dim that is a multiple of 8 up to 256, got 100"),
    ],
)
def test_what_the_kernels_cannot_do_falls_to_flex(monkeypatch, given, reason):
    backend = FakeGpu(monkeypatch).choose(**given)
    assert backend.name == "flex"
    assert f"not varlen: {reason}" in backend.announcement


def test_an_old_gpu_without_triton_gets_sdpa(monkeypatch):
    backend = FakeGpu(monkeypatch, capability=(7, 5), triton=False).choose()
    assert backend.name == "sdpa"
    assert "not flash: needs compute capability 8.0 or newer, the device has 7.5" in backend.announcement
    assert "not flex: needs triton" in backend.announcement


def test_the_vision_tower_under_the_chosen_name_equals_attention_written_out():
    tower = build_vision(vision_config("tiny-teacher"), torch.Generator().manual_seed(0)).double().eval()
    tower.set_attn_implementation(choose_backend("auto", CPU, torch.float64, 32).vision)
    attention = tower.encoder.layer[0].attention
    hidden = torch.randn(2, 65, 160, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        query = attention.q_norm(attention.q_proj(hidden)).unflatten(-1, (5, 32)).transpose(1, 2)
        key = attention.k_norm(attention.k_proj(hidden)).unflatten(-1, (5, 32)).transpose(1, 2)
        value = attention.v_proj(hidden).unflatten(-1, (5, 32)).transpose(1, 2)
        weights = (query @ key.transpose(2, 3) / 32**0.5).softmax(-1)
        expected = attention.projection_layer((weights @ value).transpose(1, 2).flatten(2))
        ours, _ = attention(hidden)
    assert (ours - expected).abs().max() < 1e-12
