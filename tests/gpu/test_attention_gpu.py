"""The attention kernels of a GPU, in bfloat16, against attention in float64; run where there is a GPU:
`python -m pytest tests/gpu/test_attention_gpu.py`.
"""

from dataclasses import replace

import pytest
import torch

from models.attention import AttentionError, Backend, choose_backend
from models.presets import vision_config
from models.vlm import build_vision
from tests.gpu.reference import Case, random_case, reference, with_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch sees none"),
]

CUDA = torch.device("cuda")
KERNELS = ("flash", "varlen", "flex", "sdpa")
OUT_TOLERANCE = 1e-2
GRADIENT_TOLERANCE = 2e-2
"""Of the norm. Inputs are rounded before both are computed; bfloat16 keeps 8 bits, so one rounding is 2e-3 to 4e-3."""

CASES = {
    "a frame of many questions": Case(lengths=((700, (60, 90, 33, 128, 1, 57)),), heads=16, kv_heads=8, head_dim=128),
    "several prefixes": Case(
        lengths=((300, (40, 70)), (129, (5, 5, 5)), (64, (128, 127))), heads=4, kv_heads=2, head_dim=64
    ),
    "a prefix without a question": Case(
        lengths=((100, (3, 4)), (90, ()), (50, (20,))), heads=4, kv_heads=4, head_dim=64
    ),
    "text only": Case(lengths=((0, (70, 40, 5)), (80, (30, 3))), heads=6, kv_heads=1, head_dim=128),
    "one question a prefix": Case(lengths=((90, (40,)), (120, (60,))), heads=4, kv_heads=2, head_dim=64),
}


def backend_or_skip(name: str, head_dim: int, *, dtype: torch.dtype = torch.bfloat16) -> Backend:
    try:
        return choose_backend(name, CUDA, dtype, head_dim)
    except AttentionError as refused:
        pytest.skip(str(refused))


def dense(case: Case, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """The reference for long packs: the rule as one mask."""
    tokens = case.groups[-1][1]
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for row in range(tokens):
        mask[row, case.sees(row)] = True
    repeats = case.heads // case.kv_heads
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    weights = (query @ key.transpose(2, 3) * scale).masked_fill(~mask, float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2)


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.cpu().double() - wanted).norm() / wanted.norm())


def compare(case: Case, name: str, seed: int) -> None:
    backend = backend_or_skip(name, case.head_dim)
    states = [part.bfloat16() for part in case.states(seed)]
    scale = case.head_dim**-0.5
    exact = with_gradients(lambda *qkv: dense(case, *qkv, scale), *(part.double() for part in states))
    layout = case.layout(backend).to(CUDA)
    ours = with_gradients(
        lambda *qkv: layout.plan.attend(*qkv, scale=scale, dropout=0.0), *(part.to(CUDA) for part in states)
    )
    assert ours[0].dtype == torch.bfloat16
    limits = (OUT_TOLERANCE, *[GRADIENT_TOLERANCE] * 3)
    for part, got, wanted, limit in zip(("out", "dq", "dk", "dv"), ours, exact, limits, strict=True):
        assert relative(got, wanted) < limit, f"{name}: {part}"


def test_the_dense_reference_equals_the_one_token_by_token():
    case = random_case(4)
    query, key, value, _ = case.states()
    difference = dense(case, query, key, value, 0.3) - reference(case, query, key, value, 0.3)
    assert difference.abs().max() < 1e-12


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("name", KERNELS)
def test_output_and_gradients_equal_float64(name, case):
    compare(case, name, seed=1)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["flash", "varlen", "sdpa"])
def test_random_packs_equal_float64(name, seed):
    case = replace(random_case(seed), head_dim=64 + 64 * (seed % 2))  # the widths that full-size models have
    compare(case, name, seed=seed)


@pytest.mark.parametrize("name", ["flash", "varlen", "flex"])
def test_a_full_pack_equals_masked_sdpa_in_float32(name):
    questions = tuple(40 + 3 * number for number in range(26))
    case = Case(lengths=((3380, questions),) * 2 + ((3380, questions[:20]),), heads=16, kv_heads=8, head_dim=128)
    assert 14_000 < case.groups[-1][1] < 16_384
    states = [part.bfloat16().to(CUDA) for part in case.states()]
    plain = case.layout().to(CUDA)
    exact = with_gradients(
        lambda *qkv: plain.plan.attend(*qkv, scale=None, dropout=0.0), *(part.float() for part in states)
    )
    layout = case.layout(backend_or_skip(name, case.head_dim)).to(CUDA)
    ours = with_gradients(lambda *qkv: layout.plan.attend(*qkv, scale=None, dropout=0.0), *states)
    limits = (OUT_TOLERANCE, *[GRADIENT_TOLERANCE] * 3)
    for part, got, wanted, limit in zip(("out", "dq", "dk", "dv"), ours, exact, limits, strict=True):
        assert relative(got, wanted.cpu().double()) < limit, f"{name}: {part}"


@pytest.mark.parametrize("name", ["flash", "varlen", "sdpa"])
def test_no_layer_waits_for_the_device(name):
    case = CASES["several prefixes"]
    layout = case.layout(backend_or_skip(name, case.head_dim)).to(CUDA)
    query, key, value, grad = (part.to(CUDA, torch.bfloat16) for part in case.states())
    torch.cuda.synchronize()
    former = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with_gradients(lambda *qkv: layout.plan.attend(*qkv, scale=0.1, dropout=0.0), query, key, value, grad)
    finally:
        torch.cuda.set_sync_debug_mode(former)


@pytest.mark.parametrize("name", ["flash", "varlen"])
def test_tiles_under_the_chosen_vision_attention_equal_float32(name):
    config = vision_config("tiny-teacher")
    config.hidden_size = 64 * config.num_attention_heads
    tower = build_vision(config, torch.Generator().manual_seed(0)).eval()
    pixels = torch.randn(3, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = tower(pixels).last_hidden_state
        tower.to(CUDA, torch.bfloat16).set_attn_implementation(backend_or_skip(name, 64).vision)
        ours = tower(pixels.to(CUDA, torch.bfloat16)).last_hidden_state
    assert relative(ours, expected.double()) < 3e-2
