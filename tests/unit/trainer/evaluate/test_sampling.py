"""Drawn tokens against the distribution they should follow."""

import pytest
import torch

from trainer.evaluate.sampling import SampledChoice, Sampling, SamplingError, draw_tokens

LOGITS = torch.tensor([0.3, 2.0, -1.0, 1.1, 0.0])


def shares(temperature: float, top_p: float = 1.0, draws: int = 20000) -> torch.Tensor:
    """Share of each token over evenly spread draws."""
    uniform = (torch.arange(draws) + 0.5) / draws
    tokens = draw_tokens(LOGITS.expand(draws, -1), uniform, temperature=temperature, top_p=top_p)
    return torch.bincount(tokens, minlength=len(LOGITS)) / draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_shares_follow_the_softmax(temperature):
    assert torch.allclose(shares(temperature), (LOGITS / temperature).softmax(0), atol=2e-4)


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    probabilities = LOGITS.softmax(0)
    kept = torch.tensor([False, True, False, True, False])  # 0.51 + 0.21: the two reach 0.6 together
    expected = torch.where(kept, probabilities, 0) / probabilities[kept].sum()
    assert torch.allclose(shares(1.0, top_p=0.6), expected, atol=2e-4)


@pytest.mark.parametrize("settings", [{"temperature": 1.0, "top_p": 1e-6}, {"temperature": 1e-4}])
def test_the_limits_are_greedy(settings):
    assert shares(settings["temperature"], settings.get("top_p", 1.0))[1] == 1


def test_the_largest_draw_stays_within_the_vocabulary():
    last = torch.tensor([1 - 2**-24])
    assert draw_tokens(LOGITS[None], last, temperature=1.0).item() == 2


def test_a_question_draws_the_same_in_any_company():
    sampling = Sampling(temperature=1.0, seed=5)
    logits = torch.zeros(3, 50)
    together, alone = SampledChoice(sampling, ["a", "b", "c"]), SampledChoice(sampling, ["b"])
    for _ in range(4):
        all_three = together(logits, torch.tensor([0, 1, 2]))
        assert alone(logits[:1], torch.tensor([0])).tolist() == [all_three[1].item()]
        assert len(set(all_three.tolist())) > 1


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_p": 1.5},
        {"temperature": 1.0, "seed": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(SamplingError, match="got"):
        Sampling(**settings)
