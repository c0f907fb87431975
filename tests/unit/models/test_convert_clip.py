"""A student tower from CLIP against transformers' CLIP, with what the student has no place for taken out of CLIP."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, InternVLVisionModel

from models.convert import ConvertError, convert
from models.convert.clip import student_config, student_steps
from models.presets import vision_config
from models.vlm import load_vision
from tests.helpers.opengvlab import randomised

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 56,
}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30}
BLOCK = {"image_size": 336, "hidden_act": "quick_gelu"}


def clip_tower(**options) -> CLIPVisionModel:
    return randomised(CLIPVisionModel(CLIPVisionConfig(**VISION, **options)))


def write(directory, state: dict, config: dict, prefix: str = ""):
    directory.mkdir()
    save_file({prefix + name: tensor.contiguous() for name, tensor in state.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def names_without_prefix(state: dict) -> dict:
    return {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_a_student_has_the_hidden_states_of_a_clip_without_what_is_dropped(tmp_path, prefix):
    clip = clip_tower(image_size=448, hidden_act="gelu")
    write(tmp_path / "src", names_without_prefix(clip.state_dict()), clip.config.to_dict(), prefix)
    convert(tmp_path / "src", tmp_path / "dst")
    for module in clip.modules():
        if hasattr(module, "pre_layrnorm"):
            module.pre_layrnorm = nn.Identity()
    pixels = torch.randn(2, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    theirs = clip(pixels, output_hidden_states=True).hidden_states
    ours = load_vision(tmp_path / "dst")(pixels, output_hidden_states=True).hidden_states
    assert len(ours) == len(theirs) == 4
    assert theirs[-1].std() > 0.5
    assert max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_whole_clip_gives_its_tower_with_positions_on_the_finer_grid(tmp_path, dtype):
    clip = randomised(CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION | BLOCK, projection_dim=8)))
    clip = clip.to(dtype)
    write(tmp_path / "src", dict(clip.state_dict()), clip.config.to_dict())
    remarks = convert(tmp_path / "src", tmp_path / "dst")
    tower = load_vision(tmp_path / "dst", dtype)
    state = names_without_prefix({k: v for k, v in clip.state_dict().items() if k.startswith("vision_model.")})
    table = state["embeddings.position_embedding.weight"]
    assert table.shape == (37, 32)
    grid = interpolate(table[1:].float().T.reshape(1, 32, 6, 6), size=(8, 8), mode="bicubic", align_corners=False)
    positions = tower.embeddings.position_embeddings[0]
    assert torch.equal(positions[0], table[0])
    assert torch.equal(positions[1:], grid[0].flatten(1).T.to(dtype))
    for n, layer in enumerate(tower.encoder.layer):
        for part in "qkv":
            for kind in ("weight", "bias"):
                mine = getattr(getattr(layer.attention, f"{part}_proj"), kind)
                assert torch.equal(mine, state[f"encoder.layers.{n}.self_attn.{part}_proj.{kind}"])
        assert torch.equal(layer.lambda_1, torch.ones(32, dtype=dtype))
        assert torch.equal(layer.lambda_2, torch.ones(32, dtype=dtype))
    assert not tower.embeddings.patch_embeddings.projection.bias.any()
    assert {parameter.dtype for parameter in tower.parameters()} == {dtype}
    said = "\n".join(remarks)
    for part in ("LayerNorms before the first and after the last layer are dropped", "6x6 -> 8x8", "text tower"):
        assert part in said
    assert "activation: CLIP has quick_gelu, the student gelu" in said
    assert tower.config.hidden_act == "gelu"


def test_the_large_clip_has_a_student_of_the_size_of_internvit_300m(tmp_path):

    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config, clip = student_config({"vision_config": large | {"patch_size": 14, "image_size": 336}}, tmp_path)
    steps = student_steps(clip, torch.float32, "vision_model.")
    with torch.device("meta"):
        student = InternVLVisionModel(vision_config("internvit-300m"))
        teacher = CLIPVisionModel(clip)
    targets = {name: shape for step in steps for name, shape in step.targets.items()}
    assert targets == {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}
    assert config.num_attention_heads == student.config.num_attention_heads
    sources = {name.removeprefix("vision_model.") for step in steps for name in step.sources}
    left = names_without_prefix(teacher.state_dict()).keys() - sources
    assert {name.split(".")[0] for name in left} == {"pre_layrnorm", "post_layernorm"}
    assert sources <= names_without_prefix(teacher.state_dict()).keys()


def test_a_tower_that_lacks_a_tensor_is_refused(tmp_path):
    clip = clip_tower(**BLOCK)
    state = names_without_prefix(clip.state_dict())
    del state["encoder.layers.1.self_attn.k_proj.bias"]
    state["extra.weight"] = torch.ones(2)
    write(tmp_path / "src", state, clip.config.to_dict())
    with pytest.raises(ConvertError) as caught:
        convert(tmp_path / "src", tmp_path / "dst")
    assert "missing, which the configuration asks for: encoder.layers.1.self_attn.k_proj.bias" in str(caught.value)
    assert "unknown to the configuration: extra.weight" in str(caught.value)
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("image_size", [336, 336], r"'image_size': got \[336, 336\], expected one number"),
        ("patch_size", [56, 56], r"'patch_size': got \[56, 56\], expected one number"),
        ("patch_size", 0, "'patch_size': got 0, expected at least 1"),
    ],
)
def test_sizes_that_a_student_cannot_have_are_refused_by_field(tmp_path, field, value, said):
    clip = clip_tower(**BLOCK)
    write(tmp_path / "src", names_without_prefix(clip.state_dict()), clip.config.to_dict() | {field: value})
    with pytest.raises(ConvertError, match=said):
        convert(tmp_path / "src", tmp_path / "dst")


def test_clip_is_not_written_in_opengvlab_layout(tmp_path):
    clip = clip_tower(**BLOCK)
    write(tmp_path / "src", names_without_prefix(clip.state_dict()), clip.config.to_dict())
    with pytest.raises(ConvertError, match="a checkpoint in clip layout.*leave --to out"):
        convert(tmp_path / "src", tmp_path / "dst", to="opengvlab")
