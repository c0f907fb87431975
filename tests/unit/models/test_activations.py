"""Counted activations against the tensors that autograd keeps while tiny models run, and against arithmetic by hand."""

import pytest
import torch

from models.activations import (
    ModuleBytes,
    distill_loss_bytes,
    language_ends,
    language_layer,
    loss_bytes,
    num_patches,
    projector_bytes,
    vision_layer,
)
from models.attention import pack_layout
from models.attention.base import Backend
from models.attention.two_pass import TwoPassPlan
from models.checkpointing import checkpoint_layers
from models.distill_heads import Codebook, DistillStudent
from models.packed_vlm import PackedVLM
from models.presets import text_config, vision_config, vlm_preset
from models.vlm import build_vision, build_vlm
from tests.helpers.kept import kept_bytes
from tests.helpers.plain_kernel import PlainKernel
from tests.unit.models.tiny import IMAGE_TOKEN, VOCAB, tiny_pack
from trainer.losses import negative_cosine, patch_kl

PLAIN = Backend(
    name="varlen", vision="sdpa", plan=lambda groups: TwoPassPlan.of(groups, kernel=PlainKernel()), announcement=""
)
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["tiny-student", "tiny-teacher"])
@pytest.mark.parametrize("checkpointed", [0, 3])
def test_a_towers_activations_are_those_that_autograd_keeps(name, dtype, checkpointed):
    tower = build_vision(vision_config(name), torch.Generator().manual_seed(0)).to(dtype)
    layers = tower.encoder.layer
    checkpoint_layers(layers[:checkpointed])
    pixels = torch.randn(3, 3, 112, 112).to(dtype)
    kept = kept_bytes(lambda: tower(pixels), [*tower.parameters(), pixels])
    one = vision_layer(tower.config, 3, dtype.itemsize)
    counted = ModuleBytes(name="vision", layers=(one,) * len(layers)).kept(checkpointed)
    assert counted == pytest.approx(kept, rel=0.02)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trained", [True, False], ids=["finetune", "align"])
@pytest.mark.parametrize("checkpointed", [0, 3])
def test_a_packs_activations_are_those_that_autograd_keeps(dtype, trained, checkpointed):
    vlm = build_vlm(
        vlm_preset("tiny-vlm", vocab_size=VOCAB, image_token_id=IMAGE_TOKEN), torch.Generator().manual_seed(0)
    )
    vlm = vlm.to(dtype).requires_grad_(trained)
    vlm.model.multi_modal_projector.requires_grad_(True)
    wrapper = PackedVLM(vlm, PLAIN)
    tower, language = vlm.model.vision_tower.encoder.layer, vlm.model.language_model.layers
    checkpoint_layers([*tower[:checkpointed], *language[:checkpointed]])
    pack = tiny_pack((5, 3), ((9, 40, 130), (70, 20, 100)))
    layout = pack_layout(pack.groups, pack.segment_ids, PLAIN)
    pixels, targets = pack.pixels.to(dtype), torch.zeros(len(pack.label_positions), dtype=torch.int64)

    def run():
        wrapper(pack.input_ids, pack.position_ids, pixels, layout, pack.label_positions, False, targets, 1)

    config, item = vlm.config, dtype.itemsize
    tokens, labels = len(pack.input_ids), len(targets)
    vision = (vision_layer(config.vision_config, 8, item),) * (len(tower) if trained else 0)
    own = (language_layer(config.text_config, tokens, item, trained=trained),) * len(language)
    ends = language_ends(config.text_config, tokens, item, trained=trained)
    counted = (
        ModuleBytes(name="vision", layers=vision).kept(checkpointed)
        + ModuleBytes(name="language", layers=own, ends=ends).kept(checkpointed)
        + projector_bytes(config, 8, item)
        + loss_bytes(config.text_config, labels, item, chunks=1, trained=trained)[0]
    )
    assert counted == pytest.approx(kept_bytes(run, [*vlm.parameters(), pixels]), rel=0.03)


def test_a_frozen_tower_keeps_nothing_and_frozen_maps_not_their_inputs():
    vlm = build_vlm(
        vlm_preset("tiny-vlm", vocab_size=VOCAB, image_token_id=IMAGE_TOKEN), torch.Generator().manual_seed(0)
    ).requires_grad_(False)
    tower, layer = vlm.model.vision_tower, vlm.model.language_model.layers[0]
    assert kept_bytes(lambda: tower(torch.randn(2, 3, 112, 112)), []) == 0
    hidden = torch.randn(50, 384, requires_grad=True)
    weights = [layer.mlp.down_proj.weight]
    assert kept_bytes(lambda: layer.mlp.down_proj(hidden), weights) == 0
    layer.mlp.down_proj.weight.requires_grad_(True)
    assert kept_bytes(lambda: layer.mlp.down_proj(hidden), weights) == hidden.numel() * 4


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.bfloat16, 0.02), (torch.float32, 0.2)])
def test_the_terms_of_distillation_keep_what_is_counted(dtype, apart, features):
    # In float32 some states are kept once that are two copies in 16 bits, for which the count is.
    tiles, width, entries, layers = 3, 160, 512, 2
    student = DistillStudent(
        build_vision(vision_config("tiny-student"), torch.Generator().manual_seed(0)), width, layers
    )
    student, codebook = student.to(dtype), Codebook(torch.randn(entries, width))
    pixels, taught = torch.randn(tiles, 3, 112, 112).to(dtype), torch.randn(tiles, 65, width).to(dtype)

    def logits(states):
        return codebook(states[:, 1:].float(), 0.07)

    def run():
        states = student(pixels)
        terms = [negative_cosine(own, taught).sum() for own in states] if features else []
        return sum(terms) + patch_kl(logits(states[-1]), logits(taught), 1.0).sum()

    known = [*student.parameters(), pixels, codebook.prototypes]
    tower = kept_bytes(lambda: student(pixels), known)
    kept, _ = distill_loss_bytes(
        tokens=tiles * 65,
        patches=tiles * 64,
        width=width,
        entries=entries,
        layers=layers,
        item=dtype.itemsize,
        features=features,
    )
    assert kept == pytest.approx(kept_bytes(run, known) - tower, rel=apart)


def test_a_layer_of_each_full_size_tower_by_hand():
    student = vision_layer(vision_config("internvit-300m"), 1, 2)
    assert num_patches(vision_config("internvit-300m")) == 1024
    per_token = 10 * 1024 * 2 + 2 * 4096 * 2 + 16 * 4 + 2 * 8
    assert student.whole == 1025 * per_token
    assert student.input == 1025 * 1024 * 2
    language = language_layer(text_config("internlm2-1.8b"), 1, 2)
    norms = 2 * (2048 * 4 + 4 + 2 * 2048 * 2)
    assert language.whole == norms + (2 * 2048 + 2 * 1024) * 2 + 16 * 4 + 4 * 8192 * 2
    repeated = language_layer(text_config("internlm2-1.8b"), 1, 2, kernel="sdpa")
    assert repeated.whole == norms + 4 * 2048 * 2 + 16 * 4 + 4 * 8192 * 2
    assert student.working == 1025 * (2 * 4096 + 2 * 1024) * 2
    assert language.working == (3 * 8192 + 2 * 2048) * 2
    assert student.flops == 2 * 1025 * (4 * 1024 * 1024 + 2 * 1024 * 4096)
    assert language.flops == 2 * (2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 8192)


def test_the_loss_in_parts_keeps_states_and_holds_one_part():
    config = text_config("internlm2-1.8b")
    kept, working = loss_bytes(config, 16384, 2, chunks=6)
    assert kept == 16384 * 2048 * 2
    assert working < 5 * 2**30
    at_once, _ = loss_bytes(config, 16384, 2, chunks=1)
    assert at_once > 16384 * 92553 * 4


def test_backward_peaks_where_the_last_checkpointed_layer_runs_again():
    layer = vision_layer(vision_config("tiny-student"), 2, 4)
    module = ModuleBytes(name="vision", layers=(layer,) * 4)
    assert module.backward_peak(0) == 4 * layer.whole + layer.working
    assert module.backward_peak(4) == 4 * layer.input + layer.whole + layer.working
    assert module.backward_peak(1) == layer.input + 3 * layer.whole + layer.working
    tail = ModuleBytes(name="vision", layers=(layer,) * 2, skipped=2)
    assert tail.kept(2) == 2 * layer.whole
    assert tail.kept(3) == layer.input + layer.whole
