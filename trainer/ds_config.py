"""A DeepSpeed JSON file and the recipe in, the configuration that DeepSpeed gets out, every "auto" filled in."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import Recipe
from trainer.typed_yaml import ConfigError


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A value that the recipe owns: dotted place in the JSON, recipe field, value."""

    place: str
    field: str
    value: Any


SECTIONS = (
    "activation_checkpointing",
    "bf16",
    "communication_data_type",
    "comms_logger",
    "compile",
    "data_types",
    "flops_profiler",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "prescale_gradients",
    "seed",
    "steps_per_print",
    "tensorboard",
    "timers",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "zero_optimization",
)
"""Top-level names of DeepSpeed that a misspelling is taken for; DeepSpeed itself ignores what it does not know."""


def load_ds_config(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        ConfigError: no such file, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give one of ds_configs/*.json") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: got {type(content).__name__}, expected an object")
    return content


def resolve(
    config: Mapping[str, Any], recipe: Recipe, *, world_size: int, config_path: Path, recipe_path: Path
) -> dict[str, Any]:
    """Fill in what the recipe owns.

    Returns:
        a new configuration without any "auto".

    Raises:
        ConfigError: a value given in both files with different results, a section the recipe owns, a misspelt one, an
            "auto" that nothing fills; each line names both files.
    """
    resolved: dict[str, Any] = json.loads(json.dumps(config))
    problems = [
        f"{config_path}: {name!r} belongs to the recipe ({recipe_path}: {owner}); remove it from the JSON"
        for name, owner in (("scheduler", "optim.schedule"), ("curriculum_learning", "data"))
        if name in resolved
    ]
    problems += [
        f"{config_path}: unknown section {name!r}; did you mean {near[0]!r}?"
        for name in resolved
        if name not in SECTIONS and (near := difflib.get_close_matches(name, SECTIONS, n=1, cutoff=0.8))
    ]
    resolved.setdefault("optimizer", {"type": "AdamW", "params": {}})
    resolved.setdefault("timers", {"throughput": {"enabled": False}})  # DeepSpeed's own waits for the GPU twice a step
    for owned in _owned(recipe, world_size):
        section, name = _section(resolved, owned.place)
        given = section.get(name, "auto")
        if given != "auto" and given != owned.value:
            problems.append(
                f"{config_path}: {owned.place} is {given}, but {recipe_path}: {owned.field} gives {owned.value}; "
                f'write "auto" in the JSON, the recipe owns this value'
            )
        section[name] = owned.value
    problems += [
        f'{config_path}: {place} is "auto", but nothing in {recipe_path} sets it; give a value'
        for place in _autos(resolved)
    ]
    problems += _accumulation(resolved, config_path)
    if resolved.get("zero_optimization", {}).get("offload_param", {}).get("device") == "nvme":
        problems.append(
            f"{config_path}: zero_optimization.offload_param.device is nvme, expected cpu or none: a model is written "
            "from parameters in memory"
        )
    if problems:
        raise ConfigError("\n".join(problems))
    return resolved


def precision(config: Mapping[str, Any]) -> str:
    """`bfloat16`, `float16` or `float32`, the dtype the DeepSpeed configuration trains in."""
    if config.get("bf16", {}).get("enabled"):
        return "bfloat16"
    return "float16" if config.get("fp16", {}).get("enabled") else "float32"


def zero_stage(config: Mapping[str, Any]) -> int:
    """ZeRO stage of a configuration; 0 where it names none."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def _accumulation(config: Mapping[str, Any], config_path: Path) -> list[str]:
    """What is wrong with the type that the gradients of micro batches are added up in."""
    types = config.get("data_types", {})
    if types == {}:
        return []
    if types != {"grad_accum_dtype": "fp32"}:
        return [f'{config_path}: data_types is {types}, expected {{"grad_accum_dtype": "fp32"}}, or none']
    stage = zero_stage(config)
    if stage < 2:
        return [
            f"{config_path}: data_types.grad_accum_dtype is fp32 under ZeRO stage {stage}, whose optimiser then keeps "
            "gradients where their norms are not seen; set zero_optimization.stage to 2 or 3"
        ]
    return []


def _owned(recipe: Recipe, world_size: int) -> list[Owned]:
    accumulation = recipe.batch.micro_batches
    optim = recipe.optim
    return [
        Owned(place="train_micro_batch_size_per_gpu", field="one pack is one micro batch, which", value=1),
        Owned(place="gradient_accumulation_steps", field="batch.micro_batches", value=accumulation),
        Owned(
            place="train_batch_size",
            field=f"batch.micro_batches on {world_size} ranks",
            value=accumulation * world_size,
        ),
        Owned(place="gradient_clipping", field="optim.grad_clip", value=optim.grad_clip),
        Owned(place="optimizer.params.lr", field="optim.lr (set by module)", value=max(vars(optim.lr).values())),
        Owned(place="optimizer.params.betas", field="optim.betas", value=list(optim.betas)),
        Owned(place="optimizer.params.eps", field="optim.eps", value=optim.eps),
        Owned(
            place="optimizer.params.weight_decay",
            field="optim.weight_decay (set by module)",
            value=max(vars(optim.weight_decay).values()),
        ),
    ]


def _section(tree: dict[str, Any], place: str) -> tuple[dict[str, Any], str]:
    *path, name = place.split(".")
    for step in path:
        tree = tree.setdefault(step, {})
    return tree, name


def _autos(tree: Any, place: str = "") -> list[str]:
    if isinstance(tree, dict):
        return [found for name, value in tree.items() for found in _autos(value, f"{place}.{name}".lstrip("."))]
    return [place] if tree == "auto" else []
