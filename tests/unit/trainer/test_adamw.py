"""How AdamW computes: what is chosen, what is refused, and that torch's fused one is the AdamW of the paper."""

import pytest
import torch

from trainer.adamw import choose_adamw
from trainer.typed_yaml import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OFFLOADED = {"optimizer": {"type": "AdamW"}, "zero_optimization": {"offload_optimizer": {"device": "cpu"}}}


def config(**params):
    return {"optimizer": {"type": "AdamW", "params": {"lr": 0.1, **params}}}


@pytest.mark.parametrize(
    ("given", "wanted", "device", "expected"),
    [
        (config(), "auto", CUDA, {"lr": 0.1, "torch_adam": True, "fused": True}),
        (config(), "auto", CPU, {"lr": 0.1, "torch_adam": False}),
        (config(torch_adam=True), "auto", CUDA, {"lr": 0.1, "torch_adam": True}),
        (config(torch_adam=True, fused=True), "auto", CPU, {"lr": 0.1, "torch_adam": True, "fused": True}),
        (config(), "plain", CUDA, {"lr": 0.1, "torch_adam": True}),
        (config(), "fused", CPU, {"lr": 0.1, "torch_adam": True, "fused": True}),
        (OFFLOADED, "auto", CUDA, {"torch_adam": False}),
    ],
)
def test_what_is_chosen_is_what_deepspeed_gets(given, wanted, device, expected):
    chosen, announcement = choose_adamw(given, wanted, device)
    assert chosen["optimizer"]["params"] == expected
    assert announcement.startswith("optimiser: AdamW ")
    assert given["optimizer"].get("params") != expected or given == chosen


@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        (config(torch_adam=True), "fused", "optim.kernel: got 'fused', but optimizer.params .* says 'plain'"),
        (config(torch_adam=False), "plain", "says 'deepspeed'"),
        (OFFLOADED, "fused", "expected auto or deepspeed: .* on the host"),
        ({"optimizer": {"type": "Lion"}}, "fused", "expected auto: .* is Lion"),
    ],
)
def test_conflicts_are_refused(given, wanted, message):
    with pytest.raises(ConfigError, match=message):
        choose_adamw(given, wanted, CUDA)


def test_other_optimisers_are_left_alone():
    given = {"optimizer": {"type": "Lion", "params": {"lr": 1.0}}}
    assert choose_adamw(given, "auto", CUDA) == (given, "")


def test_the_fused_one_is_the_adamw_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(50, generator=generator))
    optimizer = torch.optim.AdamW([weight], lr=0.01, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True)
    exact, first, second = weight.detach().double(), torch.zeros(50).double(), torch.zeros(50).double()
    for step in range(1, 6):
        weight.grad = torch.randn(50, generator=generator)
        optimizer.step()
        first = 0.9 * first + 0.1 * weight.grad.double()
        second = 0.99 * second + 0.01 * weight.grad.double() ** 2
        update = first / (1 - 0.9**step) / ((second / (1 - 0.99**step)).sqrt() + 1e-8)
        exact = exact * (1 - 0.01 * 0.1) - 0.01 * update
    assert float((weight.detach().double() - exact).abs().max()) < 1e-6
