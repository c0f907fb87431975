"""Packs through `PackedVLM` against the stock model on whole conversations, and what wrapping leaves behind."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText, InternVLForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from models.attention import attention_set_to
from models.packed_vlm import PackedVLM
from models.presets import vlm_preset
from models.saving import save_model
from models.vlm import build_vlm
from tests.unit.models.tiny import IMAGE_TOKEN, TinyPack, float64_norm, tiny_pack, tiny_vlm

TILES = (2, 1, 3)
SEGMENTS = ((9, 4, 13), (7,), (3, 11, 6, 8))


def packed_logits(wrapper: PackedVLM, pack: TinyPack, dtype: torch.dtype) -> torch.Tensor:
    return wrapper(
        pack.input_ids, pack.position_ids, pack.pixels.to(dtype), pack.layout, pack.label_positions, dummy_tile=False
    )


def stock_logits(vlm: InternVLForConditionalGeneration, pack: TinyPack, dtype: torch.dtype) -> list[torch.Tensor]:
    """Label logits of each conversation, run alone and whole through the stock forward."""
    return [
        vlm(input_ids=ids[None], pixel_values=pixels.to(dtype), use_cache=False).logits[0, first:]
        for ids, pixels, first in pack.conversations
    ]


def loss_of(logits: torch.Tensor, seed: int = 3) -> torch.Tensor:
    targets = torch.randint(0, logits.shape[-1], logits.shape[:1], generator=torch.Generator().manual_seed(seed))
    return cross_entropy(logits, targets, reduction="sum")


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).detach().abs().max())


@pytest.mark.parametrize(("patched", "bound"), [(True, 1e-13), (False, 2e-7)])
def test_pack_logits_and_gradients_equal_separate_conversations(monkeypatch, patched, bound):
    # Measured worst of logits and gradients (relative to the largest of a tensor where that exceeds 1): 7.8e-16 and
    # 1.3e-15 with RMSNorm in float64; 3.3e-16 and 1.0e-7 with the stock class, whose RMSNorm rounds to float32.
    if patched:
        monkeypatch.setattr(LlamaRMSNorm, "forward", float64_norm)
    stock = tiny_vlm().double()
    wrapper = PackedVLM(copy.deepcopy(stock))
    pack = tiny_pack(TILES, SEGMENTS)

    ours = packed_logits(wrapper, pack, torch.float64)
    theirs = torch.cat(stock_logits(stock, pack, torch.float64))
    assert theirs.std() > 0.05
    assert worst(ours, theirs) < bound

    loss_of(ours).backward()
    loss_of(theirs).backward()
    for (name, mine), reference in zip(wrapper.vlm.named_parameters(), stock.parameters(), strict=True):
        assert mine.grad is not None, name
        assert reference.grad.abs().max() > 0 or name.endswith("k_proj.bias"), name
        assert worst(mine.grad, reference.grad) <= bound * max(1.0, float(reference.grad.abs().max())), name


def test_a_long_pack_is_not_taken_for_one_long_sequence():
    config = vlm_preset("tiny-vlm", vocab_size=64, image_token_id=IMAGE_TOKEN)
    config.text_config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    config.text_config.max_position_embeddings = 80
    stock = build_vlm(config, torch.Generator().manual_seed(0)).double()
    wrapper = PackedVLM(copy.deepcopy(stock))
    pack = tiny_pack(TILES, SEGMENTS)
    assert len(pack.input_ids) > 2 * 80
    assert pack.position_ids.max() < 80
    ours = packed_logits(wrapper, pack, torch.float64)
    assert worst(ours, torch.cat(stock_logits(stock, pack, torch.float64))) < 2e-7  # measured 1.3e-15


def test_a_question_does_not_see_another_one():
    wrapper = PackedVLM(tiny_vlm().double().eval())
    pack = tiny_pack((1,), ((6, 7, 8),))
    before = packed_logits(wrapper, pack, torch.float64)
    start = pack.groups[0][1] - 7 - 8
    pack.input_ids[start : start + 7] = (pack.input_ids[start : start + 7] + 1) % 60
    after = packed_logits(wrapper, pack, torch.float64)
    (a, b), (c, d), (e, f) = pack.labels_of
    assert torch.equal(before[a:b], after[a:b])
    assert torch.equal(before[e:f], after[e:f])
    assert not torch.equal(before[c:d], after[c:d])


def test_a_text_only_pack_gives_the_tower_zero_gradients():
    wrapper = PackedVLM(tiny_vlm())
    pack = tiny_pack((0,), ((6, 9),))
    logits = wrapper(
        pack.input_ids, pack.position_ids, torch.zeros(1, 3, 112, 112), pack.layout, pack.label_positions, True
    )
    loss_of(logits).backward()
    reference = [wrapper.release()(input_ids=ids[None]).logits[0, first:] for ids, _, first in pack.conversations]
    assert worst(logits, torch.cat(reference)) < 1e-5
    for part in (wrapper.vlm.model.vision_tower, wrapper.vlm.model.multi_modal_projector):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


def test_tiles_and_image_tokens_that_differ_in_number_are_refused():
    wrapper = PackedVLM(tiny_vlm())
    pack = tiny_pack((2,), ((6,),))
    with pytest.raises(ValueError, match="do not match"):
        wrapper(pack.input_ids, pack.position_ids, pack.pixels[:1], pack.layout, pack.label_positions)


def test_wrapping_is_reversible_and_leaves_no_trace_in_the_configuration(tmp_path):
    vlm = tiny_vlm()
    pack = tiny_pack((1,), ((6,),))
    before = stock_logits(vlm, pack, torch.float32)[0]
    wrapper = PackedVLM(vlm)
    save_model(wrapper.vlm, tmp_path)
    with attention_set_to(wrapper.vlm, "sdpa"):
        assert torch.equal(stock_logits(wrapper.vlm, pack, torch.float32)[0], before)
    packed_logits(wrapper, pack, torch.float32)
    assert torch.equal(stock_logits(wrapper.release(), pack, torch.float32)[0], before)

    assert "drivlm" not in (tmp_path / "config.json").read_text()
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is InternVLForConditionalGeneration
    assert torch.equal(stock_logits(loaded, pack, torch.float32)[0], before)


def test_an_unwrapped_call_under_pack_attention_is_refused():
    wrapper = PackedVLM(tiny_vlm())
    with pytest.raises(AssertionError, match="without a layout"):
        wrapper.vlm(input_ids=torch.arange(5)[None])
