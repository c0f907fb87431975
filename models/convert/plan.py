"""An opened checkpoint and the wanted layout in, everything that is to be read and written out; reads no tensor."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig, PreTrainedConfig

from models.convert import clip
from models.convert.configs import IMAGE_TOKEN_FIELD, Fields, read_chat, read_language, read_vision, stock_config
from models.convert.errors import ConvertError
from models.convert.opengvlab_json import chat_json, language_json, vision_json
from models.convert.rules import Step, disk_name, steps_between
from models.convert.source import Source, TensorReader
from models.convert.tokenizer_files import IMAGE_TOKEN, check_vocabulary, token_ids

INTERNVL_VOCABULARY, INTERNVL_IMAGE_TOKEN = 92553, 92546
"""Size of InternLM2's vocabulary with InternVL's nine tokens, and the id of `<IMG_CONTEXT>` in it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a conversion does.

    Attributes:
        steps: in the order of writing; their sources have names as in `aliases`' values.
        config: a stock configuration, or OpenGVLab's as JSON.
        architecture: the class that the written config.json names.
        aliases: name in the checkpoint to the name that the steps use.
        remarks: what the user should know.
    """

    steps: list[Step]
    config: PreTrainedConfig | dict[str, Any]
    architecture: str
    aliases: Mapping[str, str]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint: names of its class, the layout it is in, and the function that plans its conversion."""

    architectures: tuple[str, ...]
    layout: str
    plan: Callable[[Source], Plan]


def plan_conversion(source: Source, to: str) -> Plan:
    """Recognise the checkpoint by its config.json and plan its conversion to layout `to`.

    Raises:
        ConvertError: an architecture without rules, a checkpoint that is in that layout already, or a configuration,
            tokenizer and weights that do not fit together.
    """
    model_type = source.config.get("model_type")
    architectures = source.config.get("architectures") or []
    kind = KINDS.get(model_type) if isinstance(model_type, str) else None
    named = set(map(str, architectures)) if isinstance(architectures, list) else {repr(architectures)}
    if kind is None or not named <= set(kind.architectures):
        known = "; ".join(f"{name} ({', '.join(kind.architectures)})" for name, kind in KINDS.items())
        raise ConvertError(
            f"{source.config_file}: fields 'model_type' and 'architectures': got {model_type!r} and {architectures}, "
            f"expected one of: {known}; other models have no rules here"
        )
    if to == kind.layout or (kind.layout == "clip" and to == "opengvlab"):
        other = "pass --to opengvlab" if to == "transformers" else "leave --to out"
        raise ConvertError(
            f"{source.config_file}: field 'model_type': got {model_type!r}, a checkpoint in {kind.layout} layout, "
            f"expected one that can be written in {to} layout; {other}"
        )
    return kind.plan(source)


def check_tensors(source: Source, plan: Plan) -> None:
    """Compare names, shapes and types in the checkpoint's headers with what the plan reads.

    Raises:
        ConvertError: everything missing, unknown, wrongly shaped, not of floating point or there twice.
    """
    reader = source.reader
    expected = {name: shape for step in plan.steps for name, shape in step.sources.items()}
    held = {alias: name for name, alias in plan.aliases.items()}
    shapes = [
        f"{held[name]}: got {list(reader.shape(held[name]))}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in held and reader.shape(held[name]) != shape
    ]
    kinds = [
        f"{held[name]}: {reader.dtype(held[name])}"
        for name in expected
        if name in held and not reader.dtype(held[name]).is_floating_point
    ]
    twice = [f"{name} and {held[alias]}" for name, alias in plan.aliases.items() if held[alias] != name]
    problems = {
        "missing, which the configuration asks for": sorted(expected.keys() - held.keys()),
        "unknown to the configuration": sorted(held[name] for name in held.keys() - expected.keys()),
        "wrongly shaped": shapes,
        "not of floating point": kinds,
        "there under two names": twice,
    }
    lines = [f"\n  {what}: {name}" for what, names in problems.items() for name in names]
    if lines:
        hint = ""
        if any(name.endswith(("lm_head.weight", "output.weight")) for name in expected.keys() ^ held.keys()):
            hint = "; a tensor of the output layer is there exactly if tie_word_embeddings is false: is it mis-set?"
        raise ConvertError(
            f"{source.directory}: the weights and {source.config_file.name} disagree in {len(lines)} tensors{hint}"
            + "".join(lines)
        )


def main_dtype(reader: TensorReader) -> torch.dtype:
    """The type that most numbers of the checkpoint have."""
    counts: Counter[torch.dtype] = Counter()
    for name in reader.names:
        counts[reader.dtype(name)] += prod(reader.shape(name))
    return counts.most_common(1)[0][0]


def _same(source: Source) -> dict[str, str]:
    return {name: name for name in source.reader.names}


def _vision_to_stock(source: Source) -> Plan:
    config = read_vision(Fields(source.config), source.config_file)
    return Plan(steps=steps_between(config), config=config, architecture="InternVLVisionModel", aliases=_same(source))


def _language_to_stock(source: Source) -> Plan:
    config = read_language(Fields(source.config), source.config_file)
    check_vocabulary(source.directory, token_ids(source.directory), config.vocab_size)
    return Plan(steps=steps_between(config), config=config, architecture="LlamaForCausalLM", aliases=_same(source))


def _chat_to_stock(source: Source) -> Plan:
    ids = token_ids(source.directory)
    llm = source.config.get("llm_config")
    vocab_size = llm.get("vocab_size") if isinstance(llm, Mapping) else None
    stated = source.config.get(IMAGE_TOKEN_FIELD)
    remarks = []
    if IMAGE_TOKEN in ids:
        stated = ids[IMAGE_TOKEN]
    elif stated is None and not ids and vocab_size == INTERNVL_VOCABULARY:
        stated = INTERNVL_IMAGE_TOKEN
        remarks.append(f"{IMAGE_TOKEN} is taken to be {stated}, as in InternVL's vocabulary of {vocab_size} tokens")
    config = read_chat(Fields(source.config), source.config_file, stated if isinstance(stated, int) else 0)
    assert isinstance(config.text_config, LlamaConfig)
    check_vocabulary(source.directory, ids, config.text_config.vocab_size)
    if not isinstance(stated, int):
        raise ConvertError(
            f"{source.directory}: got no id of {IMAGE_TOKEN}, expected it in added_tokens.json or another tokenizer "
            "file; copy the model's tokenizer files beside its weights"
        )
    return Plan(
        steps=steps_between(config),
        config=config,
        architecture="InternVLForConditionalGeneration",
        aliases=_same(source),
        remarks=remarks,
    )


def _vision_to_opengvlab(source: Source) -> Plan:
    config = stock_config(InternVLVisionConfig, source.config, source.config_file)
    values = vision_json(config, source.config_file)
    return Plan(
        steps=steps_between(config, to="opengvlab"),
        config=values,
        architecture="InternVisionModel",
        aliases=_same(source),
    )


def _language_to_opengvlab(source: Source) -> Plan:
    config = stock_config(LlamaConfig, source.config, source.config_file)
    check_vocabulary(source.directory, token_ids(source.directory), config.vocab_size)
    values = language_json(config, source.config_file, tied=config.tie_word_embeddings)
    return Plan(
        steps=steps_between(config, to="opengvlab"),
        config=values,
        architecture="InternLM2ForCausalLM",
        aliases=_same(source),
    )


def _chat_to_opengvlab(source: Source) -> Plan:
    if source.config.get("architectures") == ["LinearProjectorVLM"]:
        raise ConvertError(
            f"{source.config_file}: field 'architectures': got LinearProjectorVLM, expected "
            "InternVLForConditionalGeneration; OpenGVLab's projector has two linear layers, and one layer cannot be "
            "written as two with a GELU between"
        )
    config = stock_config(InternVLConfig, source.config, source.config_file)
    values = chat_json(config, source.config_file)
    ids = token_ids(source.directory)
    assert isinstance(config.text_config, LlamaConfig)
    check_vocabulary(source.directory, ids, config.text_config.vocab_size)
    if ids.get(IMAGE_TOKEN, config.image_token_id) != config.image_token_id:
        raise ConvertError(
            f"{source.config_file}: field 'image_token_id': got {config.image_token_id}, expected {ids[IMAGE_TOKEN]}, "
            f"the tokenizer's id of {IMAGE_TOKEN}; use the tokenizer that belongs to this checkpoint"
        )
    return Plan(
        steps=steps_between(config, to="opengvlab"),
        config=values,
        architecture="InternVLChatModel",
        aliases={name: disk_name(name) for name in source.reader.names},
        remarks=[f"template {values['template']!r}: OpenGVLab's code builds prompts with it"],
    )


def _clip_to_student(source: Source) -> Plan:
    config, old = clip.student_config(source.config, source.config_file)
    names = source.reader.names
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in names) else ""
    dropped = clip.dropped_names(names, prefix)
    return Plan(
        steps=clip.student_steps(old, main_dtype(source.reader), prefix),
        config=config,
        architecture="InternVLVisionModel",
        aliases={name: name for name in names if name not in dropped},
        remarks=clip.remarks(old, any(name.startswith("text_model.") for name in dropped)),
    )


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "intern_vit_6b": Kind(("InternVisionModel",), "opengvlab", _vision_to_stock),
        "internlm2": Kind(("InternLM2ForCausalLM",), "opengvlab", _language_to_stock),
        "internvl_chat": Kind(("InternVLChatModel",), "opengvlab", _chat_to_stock),
        "internvl_vision": Kind(("InternVLVisionModel",), "transformers", _vision_to_opengvlab),
        "llama": Kind(("LlamaForCausalLM",), "transformers", _language_to_opengvlab),
        "internvl": Kind(
            ("InternVLForConditionalGeneration", "LinearProjectorVLM"), "transformers", _chat_to_opengvlab
        ),
        "clip": Kind(("CLIPModel",), "clip", _clip_to_student),
        "clip_vision_model": Kind(("CLIPVisionModel", "CLIPVisionModelWithProjection"), "clip", _clip_to_student),
    }
)
