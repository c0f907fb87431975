"""Greedy answers over shared prefixes against stock generation, one question at a time."""

import pytest
import torch
from transformers import InternVLForConditionalGeneration

from models.decoding import greedy_answers
from tests.unit.models.tiny import TinyPack, tiny_pack, tiny_vlm

TILES = (2, 1, 3)
SEGMENTS = ((9, 4, 13), (7,), (3, 11, 6, 8))


def lively_vlm() -> InternVLForConditionalGeneration:
    """Random weights with larger matrices: greedy answers that differ between questions and end at varied lengths."""
    vlm = tiny_vlm(7)
    with torch.no_grad():
        for weight in vlm.parameters():
            if weight.dim() == 2:
                weight.mul_(4.0)
    return vlm.double()


def ours(vlm, pack: TinyPack, stop_ids, max_new_tokens: int, dummy_tile: bool = False) -> list[list[int]]:
    return greedy_answers(
        vlm,
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        segment_ids=pack.segment_ids,
        groups=pack.groups,
        pixel_values=torch.zeros(1, 3, 112, 112) if dummy_tile else pack.pixels,
        dummy_tile=dummy_tile,
        stop_ids=stop_ids,
        max_new_tokens=max_new_tokens,
    )


def stock(vlm, pack: TinyPack, stop_ids, max_new_tokens: int) -> list[list[int]]:
    answers = []
    for ids, pixels, _ in pack.conversations:
        out = vlm.eval().generate(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids[None]),
            **({"pixel_values": pixels} if len(pixels) else {}),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(stop_ids),
            pad_token_id=0,
        )
        new = out[0, len(ids) :].tolist()
        ends = [i for i, token in enumerate(new) if token in stop_ids]
        answers.append(new[: ends[0]] if ends else new)
    return answers


@pytest.mark.parametrize("stop_ids", [set(), {3, 9, 17, 22, 31, 40, 47, 55}])
def test_answers_equal_stock_generation_one_question_at_a_time(stop_ids):
    vlm = lively_vlm()
    pack = tiny_pack(TILES, SEGMENTS)
    expected = stock(vlm, pack, stop_ids, 24)
    if stop_ids:
        assert len({len(answer) for answer in expected}) > 3
        assert max(map(len, expected)) == 24
    assert len(set(map(tuple, expected))) == len(expected)
    assert ours(vlm, pack, stop_ids, 24) == expected


def test_every_row_may_stop_at_once():
    vlm = lively_vlm()
    pack = tiny_pack(TILES, SEGMENTS)
    assert ours(vlm, pack, set(range(64)), 5) == [[]] * 8


def test_one_token_is_the_shortest_answer_limit():
    vlm = lively_vlm()
    pack = tiny_pack(TILES, SEGMENTS)
    assert ours(vlm, pack, set(), 1) == stock(vlm, pack, set(), 1)


def test_questions_without_an_image_are_answered():
    vlm = lively_vlm()
    pack = tiny_pack((0, 0), ((6, 9), (5,)))
    assert ours(vlm, pack, {3, 9}, 12, dummy_tile=True) == stock(vlm, pack, {3, 9}, 12)


def test_model_is_left_as_it_was():
    vlm = lively_vlm().train()
    vlm.model.vision_tower.eval()
    modes = [module.training for module in vlm.modules()]
    ours(vlm, tiny_pack((1,), ((6, 9),)), set(), 3)
    assert [module.training for module in vlm.modules()] == modes
    assert vlm.model.language_model.config._attn_implementation == "sdpa"
