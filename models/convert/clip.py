"""CLIP's configuration and tensor names in, the steps to a student tower in transformers' InternVL layout out.

The student's tower takes over CLIP's transformer; what it lacks is dropped (the LayerNorm before the first layer, the
one after the last, text tower and projections), and what CLIP lacks starts neutral (LayerScale 1, convolution bias 0).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate
from transformers import CLIPVisionConfig, InternVLVisionConfig

from models.convert.configs import stock_config
from models.convert.errors import ConvertError
from models.convert.rules import Shape, Step, Tensors

STUDENT_IMAGE_SIZE = 448

_PARTS = {
    "self_attn.q_proj": "attention.q_proj",
    "self_attn.k_proj": "attention.k_proj",
    "self_attn.v_proj": "attention.v_proj",
    "self_attn.out_proj": "attention.projection_layer",
    "layer_norm1": "layernorm_before",
    "layer_norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Modules of a layer, all with weight and bias."""


def student_config(values: Mapping[str, Any], file: Path) -> tuple[InternVLVisionConfig, CLIPVisionConfig]:
    """The student's configuration and CLIP's, from the config.json of a whole CLIP model or of its vision tower.

    Raises:
        ConvertError: a configuration that is none of CLIP's, or one whose sizes are not single numbers.
    """
    inner = values.get("vision_config", values)
    if not isinstance(inner, Mapping):
        raise ConvertError(f"{file}: field 'vision_config': got {inner!r:.80}, expected an object")
    clip = stock_config(CLIPVisionConfig, inner, file)
    for name in ("image_size", "patch_size"):
        if not isinstance(getattr(clip, name), int):
            raise ConvertError(f"{file}: field '{name}': got {getattr(clip, name)!r}, expected one number")
    student = stock_config(
        InternVLVisionConfig,
        {
            "hidden_size": clip.hidden_size,
            "num_hidden_layers": clip.num_hidden_layers,
            "num_attention_heads": clip.num_attention_heads,
            "intermediate_size": clip.intermediate_size,
            "num_channels": clip.num_channels,
            "patch_size": clip.patch_size,
            "image_size": STUDENT_IMAGE_SIZE,
            "hidden_act": "gelu",
            "norm_type": "layer_norm",
            "layer_norm_eps": clip.layer_norm_eps,
            "attention_bias": True,
            "use_qk_norm": False,
            "layer_scale_init_value": 1.0,
        },
        file,
    )
    return student, clip


def student_steps(clip: CLIPVisionConfig, dtype: torch.dtype, prefix: str) -> list[Step]:
    """All steps; `prefix` stands before CLIP's names, and `dtype` is what tensors that CLIP lacks are made in."""
    assert isinstance(clip.image_size, int)
    assert isinstance(clip.patch_size, int)
    width, ffn = clip.hidden_size, clip.intermediate_size
    side, new_side = clip.image_size // clip.patch_size, STUDENT_IMAGE_SIZE // clip.patch_size
    conv = (width, clip.num_channels, clip.patch_size, clip.patch_size)

    def positions(read: Tensors) -> Tensors:
        return [resized_positions(read[0], side, new_side)]

    old_positions, new_positions = (side**2 + 1, width), (1, new_side**2 + 1, width)
    given: list[tuple[str, Shape, str, Shape]] = [
        ("embeddings.class_embedding", (width,), "embeddings.cls_token", (1, 1, width)),
        ("embeddings.patch_embedding.weight", conv, "embeddings.patch_embeddings.projection.weight", conv),
    ]
    made: list[tuple[str, Shape, float]] = [("embeddings.patch_embeddings.projection.bias", (width,), 0.0)]
    shapes = {"mlp.fc1": (ffn, width), "mlp.fc2": (width, ffn)}
    for n in range(clip.num_hidden_layers):
        for theirs, stock in _PARTS.items():
            weight = (width,) if "norm" in theirs else shapes.get(theirs, (width, width))
            for suffix, shape in (("weight", weight), ("bias", weight[:1])):
                given.append(
                    (f"encoder.layers.{n}.{theirs}.{suffix}", shape, f"encoder.layer.{n}.{stock}.{suffix}", shape)
                )
        made += [(f"encoder.layer.{n}.lambda_{i}", (width,), 1.0) for i in (1, 2)]
    table = "embeddings.position_embedding.weight"
    return [
        Step(
            sources={prefix + table: old_positions},
            targets={"embeddings.position_embeddings": new_positions},
            apply=positions,
        ),
        *[_reshaped(prefix + theirs, shape, stock, target) for theirs, shape, stock, target in given],
        *[_constant(name, shape, value, dtype) for name, shape, value in made],
    ]


def dropped_names(names: Sequence[str], prefix: str) -> set[str]:
    """CLIP's tensors that a student has no place for."""
    vision = tuple(f"{prefix}{part}" for part in ("pre_layrnorm.", "post_layernorm.", "embeddings.position_ids"))
    others = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
    return {name for name in names if name.startswith(vision) or (prefix and name.startswith(others))}


def resized_positions(table: torch.Tensor, side: int, new_side: int) -> torch.Tensor:
    """Position embeddings [side^2 + 1, D] to [1, new_side^2 + 1, D], bicubic in float32; the class token's is kept."""
    class_position, grid = table[:1], table[1:].float()
    grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if side != new_side:
        grid = interpolate(grid, size=(new_side, new_side), mode="bicubic", align_corners=False)
    grid = grid.flatten(2).transpose(1, 2)[0].to(table.dtype)
    return torch.cat([class_position, grid])[None]


def remarks(clip: CLIPVisionConfig, has_text_tower: bool) -> list[str]:
    """What a student from CLIP does not have as CLIP had it."""
    assert isinstance(clip.image_size, int)
    assert isinstance(clip.patch_size, int)
    side, new_side = clip.image_size // clip.patch_size, STUDENT_IMAGE_SIZE // clip.patch_size
    said = [
        "CLIP's LayerNorms before the first and after the last layer are dropped: InternVL's tower has none, so its "
        "first layer sees embeddings of another scale and the student is a start for training, not CLIP",
        "LayerScale starts at 1 and the bias of the patch convolution at 0, which changes nothing",
        f"norm epsilon {clip.layer_norm_eps:g} is CLIP's",
    ]
    if side != new_side:
        said.append(f"position embeddings: grid {side}x{side} -> {new_side}x{new_side}, bicubic")
    if clip.hidden_act != "gelu":
        said.append(f"activation: CLIP has {clip.hidden_act}, the student gelu")
    if has_text_tower:
        said.append("CLIP's text tower and projections are dropped")
    return said


def _reshaped(name: str, shape: Shape, target: str, target_shape: Shape) -> Step:
    return Step(
        sources={name: shape}, targets={target: target_shape}, apply=lambda read: [read[0].reshape(target_shape)]
    )


def _constant(name: str, shape: Shape, value: float, dtype: torch.dtype) -> Step:
    return Step(sources={}, targets={name: shape}, apply=lambda _: [torch.full(shape, value, dtype=dtype)])
