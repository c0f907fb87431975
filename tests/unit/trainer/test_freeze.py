"""Patterns of parameter names that are not trained."""

import pytest
import torch
from torch import nn

from trainer.freeze import FreezeError, freeze, let_gradients_in


def model():
    return nn.ModuleDict({"tower": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "head": nn.Linear(2, 2)})


def test_matching_parameters_are_frozen_and_the_others_are_not():
    made = model()
    freeze(made, ["tower.0.*", "*.bias"])
    trained = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert trained == {"tower.1.weight", "head.weight"}


def test_every_pattern_without_a_match_is_named_with_names_near_it():
    with pytest.raises(FreezeError) as caught:
        freeze(model(), ["tower.*", "towr.0.weight", "Head.*"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "model.freeze: 'towr.0.weight' matches no parameter" in lines[0]
    assert "tower.0.weight" in lines[0]
    assert "'Head.*'" in lines[1]
    assert "head." in lines[1]


def test_freezing_everything_is_refused():
    with pytest.raises(FreezeError, match="leaves nothing to train"):
        freeze(model(), ["*"])


def test_the_first_trained_layer_gets_an_input_that_wants_a_gradient_and_no_other_does():
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    layers[0].requires_grad_(False)
    let_gradients_in(layers)
    wanted = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, args: wanted.append((args[0].requires_grad, args[0].is_leaf)))
    layers(torch.ones(1, 2)).sum().backward()
    assert wanted == [(False, True), (True, True), (True, False)]
    wanted.clear()
    with torch.no_grad():
        layers(torch.ones(1, 2))
    assert not any(gradient for gradient, _ in wanted)
