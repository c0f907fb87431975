"""A stage and the limits of a pack in; what has to be in memory for it out, without any weight being there."""

from collections.abc import Iterable, Mapping
from functools import partial

from torch import nn
from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig

from models.activations import (
    Kernel,
    LayerBytes,
    ModuleBytes,
    distill_loss_bytes,
    language_ends,
    language_layer,
    loss_bytes,
    num_patches,
    pixel_bytes,
    projector_bytes,
    vision_layer,
    vision_layer_alone,
)
from models.attention import choose_backend
from models.distill_heads import DistillStudent
from models.fused import choose_fused
from models.label_loss import head_chunks
from trainer.dist import compute_device, num_gpus
from trainer.memory import Footprint
from trainer.stages.base import Stage
from trainer.stages.distill import DistillStage
from trainer.stages.vlm import VlmStage


def footprint(stage: Stage, *, max_tokens: int, max_tiles: int, divided: bool) -> Footprint:
    """What a stage holds.

    Args:
        stage: its parameters may be on the meta device.
        max_tokens, max_tiles: of a pack.
        divided: ZeRO-3 divides the model, and the teacher where the recipe leaves it to that.
    """
    if isinstance(stage, DistillStage):
        return _distill(stage, max_tokens, max_tiles, divided)
    assert isinstance(stage, VlmStage), f"no footprint for {type(stage).__name__}"
    return _vlm(stage, max_tokens, max_tiles)


def as_in_recipe(stage: Stage) -> dict[str, int]:
    """The layers that the recipe says."""
    return {name: stage.num_checkpointed(name) for name in stage.layers()}


def _distill(stage: DistillStage, tokens: int, tiles: int, divided: bool) -> Footprint:
    item, settings = stage.dtype.itemsize, stage.recipe.distill
    assert isinstance(stage.model, DistillStudent)
    student, width = stage.model.tower.config, stage.model.bridges[0].out_features
    assert isinstance(width, int)
    patches = tiles * num_patches(student)
    terms = distill_loss_bytes(
        tokens=patches + tiles,
        patches=patches if settings.patch_logits else 0,
        width=width,
        entries=settings.codebook_size,
        layers=len(stage.model.bridges),
        item=item,
        features=bool(settings.features),
    )
    asked, loss = _answers(stage, tokens, item)
    divides = {part: divided and part.divides(stage.dtype, settings.teacher_placement) for part in stage.frozen_parts()}
    fused = _fused(stage)
    return Footprint(
        parameters=_numbers(stage.model.parameters()),
        trained=_numbers(parameter for parameter in stage.model.parameters() if parameter.requires_grad),
        beside=sum(part.num_parameters for part, apart in divides.items() if not apart),
        beside_divided=sum(part.num_parameters for part, apart in divides.items() if apart),
        modules=(
            _module(
                "vision",
                stage.layers()["vision"],
                _other_trained(stage, ".embeddings."),
                partial(_vision, student, tiles, item, fused),
            ),
            *asked,
        ),
        others={"bridges": (patches + tiles) * student.hidden_size * item},
        loss=(terms[0] + loss[0], max(terms[1], loss[1])),
        forward_alone=_teacher_alone(stage, tiles, item),
        tiles=pixel_bytes(student, tiles, item),
    )


def _teacher_alone(stage: DistillStage, tiles: int, item: int) -> float:
    """The teacher's last layer, beside the states before its input that are compared as well."""
    if stage.teacher is None:
        return 0.0
    assert isinstance(stage.model, DistillStudent)
    states = vision_layer(stage.teacher.config, tiles, item).input
    return vision_layer_alone(stage.teacher.config, tiles, item) + max(len(stage.model.bridges) - 2, 0) * states


def _tower_alone(config: InternVLVisionConfig, tiles: int, item: int) -> float:
    """Any layer but the first, beside the embeddings that the stock tower holds until its end."""
    return vision_layer_alone(config, tiles, item) + vision_layer(config, tiles, item).input


def _answers(stage: DistillStage, tokens: int, item: int) -> tuple[tuple[ModuleBytes, ...], tuple[float, float]]:
    """What the term on answers keeps in the frozen language model, and in its head, which both towers are heard by."""
    if stage.answers is None:
        return (), (0.0, 0.0)
    text = stage.answers.config.text_config
    assert isinstance(text, LlamaConfig)
    layer = _language(stage, text, tokens, item, trained=False)
    ends = language_ends(text, tokens, item, trained=False, fused=_fused(stage))
    chunks = head_chunks(2 * tokens, text.vocab_size)
    module = ModuleBytes(name="answers", layers=(layer,) * text.num_hidden_layers, ends=ends)
    return (module,), loss_bytes(text, 2 * tokens, item, chunks=chunks, trained=False)


def _vlm(stage: VlmStage, tokens: int, tiles: int) -> Footprint:
    item = stage.dtype.itemsize
    config = stage.vlm.config
    vision, text = config.vision_config, config.text_config
    assert isinstance(vision, InternVLVisionConfig)
    assert isinstance(text, LlamaConfig)
    layers, fused = stage.layers(), _fused(stage)
    tower_enters = _other_trained(stage, "vision_tower.embeddings.")
    tower = _module("vision", layers["vision"], tower_enters, partial(_vision, vision, tiles, item, fused))
    enters = bool(tower.layers) or _other_trained(stage, "multi_modal_projector.", "embed_tokens.")
    language = _module("language", layers["language"], enters, partial(_language, stage, text, tokens, item))
    ends = language_ends(text, tokens, item, trained=_other_trained(stage, "language_model.norm."), fused=fused)
    chunks = head_chunks(tokens, text.vocab_size)
    return Footprint(
        parameters=_numbers(stage.model.parameters()),
        trained=_numbers(parameter for parameter in stage.model.parameters() if parameter.requires_grad),
        modules=(tower, ModuleBytes(name="language", layers=language.layers, skipped=language.skipped, ends=ends)),
        others=_projector(stage, config, tiles, item),
        loss=loss_bytes(text, tokens, item, chunks=chunks, trained=_other_trained(stage, "lm_head."), fused=fused),
        forward_alone=_tower_alone(vision, tiles, item),
        tiles=pixel_bytes(vision, tiles, item),
    )


def _projector(stage: VlmStage, config: InternVLConfig, tiles: int, item: int) -> Mapping[str, float]:
    return (
        {"projector": projector_bytes(config, tiles, item)} if _other_trained(stage, "multi_modal_projector.") else {}
    )


def _vision(config: InternVLVisionConfig, tiles: int, item: int, fused: bool, trained: bool) -> LayerBytes:
    return vision_layer(config, tiles, item, trained=trained, fused=fused)


def _language(stage: Stage, config: LlamaConfig, tokens: int, item: int, trained: bool) -> LayerBytes:
    """On a machine with a GPU its own kernels count. Elsewhere what is asked about is a GPU that is not here: 16 bits
    mean kernels for packs, if the recipe lets it."""
    wanted = stage.recipe.model.attention
    if num_gpus():
        assert config.head_dim is not None
        wanted = choose_backend(wanted, compute_device(), stage.dtype, config.head_dim).name
    kernel: Kernel = "sdpa" if wanted == "sdpa" or (wanted == "auto" and item != 2) else "varlen"
    return language_layer(config, tokens, item, trained=trained, kernel=kernel, fused=_fused(stage))


def _fused(stage: Stage) -> bool:
    """Whether layers keep what fused kernels keep, as for attention."""
    wanted = stage.recipe.model.kernels
    if num_gpus():
        wanted = choose_fused(wanted, compute_device()).name
    return wanted != "plain" and (wanted != "auto" or stage.dtype.itemsize == 2)


def _module(name: str, layers: Iterable[nn.Module], enters: bool, size: partial[LayerBytes]) -> ModuleBytes:
    """Bytes of the layers that gradients pass: all where they enter before the first, or from the first trained on."""
    trained = [_trained(layer.named_parameters()) for layer in layers]
    first = 0 if enters else (trained.index(True) if any(trained) else len(trained))
    return ModuleBytes(name=name, layers=tuple(size(trained=own) for own in trained[first:]), skipped=first)


def _other_trained(stage: Stage, *parts: str) -> bool:
    """Whether a parameter is trained whose name holds one of these parts."""
    return _trained((n, p) for n, p in stage.model.named_parameters() if any(part in f".{n}" for part in parts))


def _trained(named: Iterable[tuple[str, nn.Parameter]]) -> bool:
    return any(parameter.requires_grad for _, parameter in named)


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
