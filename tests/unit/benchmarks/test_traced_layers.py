"""Layers of full size and the loss, one kind at a time: the bytes that are held while shapes run through them, against
what is counted."""

import pytest
import torch
from transformers import InternVLVisionModel, LlamaModel

from benchmarks.traced_kernels import traced_backend, traced_kernels
from benchmarks.traced_memory import META, HeldBytes, drop_gradients
from models.activations import ModuleBytes, language_layer, loss_bytes, vision_layer
from models.attention import PACK_ATTENTION, pack_layout, register_pack_attention
from models.checkpointing import checkpoint_layers
from models.label_loss import label_losses
from models.presets import text_config, vision_config

LAYERS = 3
TILES = 13
TOKENS = 8192


def held(layers, states, known, checkpointed, **arguments):
    """Bytes at the end of the forward pass, and most in both."""
    checkpoint_layers(layers[:checkpointed])
    states.requires_grad_(True)
    with HeldBytes(without=[states, *known]) as counted:
        for layer in layers:
            states = layer(states, **arguments)
        kept = counted.held
        states.sum().backward()
    return kept, counted.peak


def check(one, kept, peak, checkpointed):
    """What is counted is kept, and the peak is never more than is counted, nor much less."""
    module = ModuleBytes(name="layers", layers=(one,) * LAYERS)
    assert module.kept(checkpointed) == pytest.approx(kept, rel=0.02)
    assert kept + one.input < peak <= module.backward_peak(checkpointed) <= 1.4 * peak


@pytest.mark.parametrize("checkpointed", [0, LAYERS])
@pytest.mark.parametrize("name", ["internvit-300m", "internvit-6b"])
def test_a_towers_backward_pass_holds_no_more_than_is_counted(name, checkpointed):
    config = vision_config(name)
    config.num_hidden_layers = LAYERS
    with META:
        tower = InternVLVisionModel(config).to(torch.bfloat16)
    with traced_kernels():
        tower.set_attn_implementation("traced_tiles")
    states = torch.empty(TILES, 1025, config.hidden_size, dtype=torch.bfloat16, device=META)
    drop_gradients(tower)
    found = held(list(tower.encoder.layer), states, list(tower.parameters()), checkpointed)
    check(vision_layer(config, TILES, 2), *found, checkpointed)


@pytest.mark.parametrize("checkpointed", [0, LAYERS])
def test_a_language_models_backward_pass_holds_no_more_than_is_counted(checkpointed):
    register_pack_attention()
    config = text_config("internlm2-1.8b")
    config.num_hidden_layers = LAYERS
    with META:
        model = LlamaModel(config).to(torch.bfloat16)
    model.set_attn_implementation(PACK_ATTENTION)
    segments = torch.arange(TOKENS, dtype=torch.int32) // 3000
    layout = pack_layout([(0, TOKENS)], segments, traced_backend()).to(META)
    angles = [torch.empty(1, TOKENS, config.head_dim, dtype=torch.bfloat16, device=META) for _ in range(2)]
    states = torch.empty(1, TOKENS, config.hidden_size, dtype=torch.bfloat16, device=META)
    drop_gradients(model)
    known = [*model.parameters(), *angles]
    found = held(
        list(model.layers),
        states,
        known,
        checkpointed,
        position_embeddings=tuple(angles),
        attention_mask=None,
        pack_layout=layout,
    )
    check(language_layer(config, TOKENS, 2), *found, checkpointed)


@pytest.mark.parametrize("chunks", [1, 4])
def test_the_loss_holds_what_is_counted(chunks):
    config = text_config("internlm2-1.8b")
    with META:
        head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False, dtype=torch.bfloat16)
    states = torch.empty(TOKENS, config.hidden_size, dtype=torch.bfloat16, device=META, requires_grad=True)
    targets = torch.zeros(TOKENS, dtype=torch.int64, device=META)
    drop_gradients(head)
    (weight,) = head.parameters()
    with HeldBytes(without=[weight, targets]) as counted:
        copy = states * 1  # what comes from the last norm
        total = label_losses(head, copy, targets, chunks).losses.sum()
        del copy
        kept = counted.held
        total.backward()
    once, working = loss_bytes(config, TOKENS, 2, chunks=chunks)
    summed = weight.nbytes if chunks > 1 else 0  # the gradient that is added up is part of the model's state
    assert once == pytest.approx(kept, rel=0.001)
    assert once + working == pytest.approx(counted.peak - summed, rel=0.01)
