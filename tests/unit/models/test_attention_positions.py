"""A pack longer than the model's positions is not taken for one long sequence by dynamic NTK rotary embeddings."""

from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.attention import PACK_ATTENTION, Backend, register_pack_attention
from models.attention.two_pass import TwoPassPlan
from models.vlm import build_language
from tests.gpu.reference import Case
from tests.helpers.plain_kernel import PlainKernel

MAX_POSITIONS = 32
PACK = Case(lengths=((12, (6, 9, 11)), (20, (5,)), (0, (25,)), (14, (4, 17))))
TWO_PASS = Backend(
    name="varlen", vision="sdpa", plan=partial(TwoPassPlan.of, kernel=PlainKernel()), announcement="two passes"
)


def language(rope_type: str = "dynamic") -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": rope_type, "factor": 2.0, "rope_theta": 1e4},
    )
    return build_language(config, torch.Generator().manual_seed(0)).eval()


def tokens() -> torch.Tensor:
    return torch.randint(0, 64, (PACK.groups[-1][1],), generator=torch.Generator().manual_seed(1))


def samples() -> list[torch.Tensor]:
    """For each segment the pack's tokens of its prefix and itself."""
    rows = []
    for (start, _), (prefix, segments) in zip(PACK.groups, PACK.lengths, strict=True):
        place = start + prefix
        for length in segments:
            rows.append(torch.cat([torch.arange(start, start + prefix), torch.arange(place, place + length)]))
            place += length
    return rows


def positions() -> torch.Tensor:
    found = torch.zeros(PACK.groups[-1][1], dtype=torch.int64)
    for rows in samples():
        found[rows] = torch.arange(len(rows))
    return found


@torch.no_grad()
def alone(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Logits of one sample through the stock forward."""
    return model(input_ids=ids[None], use_cache=False).logits[0]


@torch.no_grad()
def packed(model: LlamaForCausalLM, position_ids: torch.Tensor, backend: Backend | None) -> torch.Tensor:
    """Logits of the whole pack."""
    register_pack_attention()
    former = model.config._attn_implementation
    model.set_attn_implementation(PACK_ATTENTION)
    out = model(
        input_ids=tokens()[None], position_ids=position_ids[None], use_cache=False, pack_layout=PACK.layout(backend)
    )
    model.set_attn_implementation(former)
    return out.logits[0]


def worst(model: LlamaForCausalLM, logits: torch.Tensor) -> float:
    ids = tokens()
    return max(float((logits[rows] - alone(model, ids[rows])).abs().max()) for rows in samples())


@pytest.mark.parametrize("backend", [None, TWO_PASS], ids=["sdpa", "two passes"])
def test_a_pack_past_the_maximum_equals_its_samples_alone(backend):
    assert max(len(rows) for rows in samples()) < MAX_POSITIONS < PACK.groups[-1][1]
    model = language()
    assert worst(model, packed(model, positions(), backend)) < 1e-4  # measured 3.1e-6; 3.7 with positions that run on


def test_a_long_sample_before_leaves_no_trace():
    model = language()
    long = torch.arange(60) % 64
    stretched = alone(model, long)
    assert (stretched - alone(language("default"), long)).abs().max() > 1e-2
    logits = packed(model, positions(), None)
    assert worst(language(), logits) < 1e-4


def test_positions_that_run_on_through_the_pack_would_be_rescaled():
    """What the comparison above tells apart."""
    model = language()
    wrong = packed(model, torch.arange(PACK.groups[-1][1]), None)
    assert worst(language(), wrong) > 1e-2
