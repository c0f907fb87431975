"""Named parameters and the recipe in; parameter groups, learning-rate factors and the table of what is trained out."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from trainer.config import Recipe, warmup_steps
from trainer.recipe import OptimSection

Kind = Literal["matrices", "norms", "biases", "layer_scale", "embeddings"]

_EMBEDDINGS = ("embed_tokens", "position_embeddings", "cls_token")
_LAYER_SCALE = ("lambda_1", "lambda_2")
_VISION_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


@dataclass(frozen=True, kw_only=True, eq=False)
class ParamGroup:
    """Parameters that share learning rate and weight decay.

    Attributes:
        name: `module/decay` or `module/no_decay`; with layer decay `vision/layer07/decay`.
        module: `vision`, `projector`, `language` or `bridge`.
        lr: peak learning rate.
        weight_decay: decoupled, as in AdamW.
    """

    name: str
    module: str
    lr: float
    weight_decay: float
    parameters: tuple[nn.Parameter, ...]


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], prefixes: Mapping[str, str], optim: OptimSection
) -> list[ParamGroup]:
    """Groups of the trainable parameters by module, by layer where rates differ, and by whether they are decayed.

    Args:
        named: all parameters with their names, the frozen ones too: they tell how deep the tower is.
        prefixes: name prefix to module; each parameter must match one.
        optim: rates and decay.

    Returns:
        non-empty groups, in a fixed order.
    """
    named = list(named)
    depth = _depth(name for name, _ in named if module_of(name, prefixes) == "vision")
    members: dict[tuple[str, int | None, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            module = module_of(name, prefixes)
            level = _level(name, depth) if module == "vision" and optim.layer_decay < 1 else None
            decayed = kind_of(name, parameter) not in optim.no_decay
            members.setdefault((module, level, decayed), []).append(parameter)
    return [
        ParamGroup(
            name="/".join([module, *_level_names(level), "decay" if decayed else "no_decay"]),
            module=module,
            lr=getattr(optim.lr, module) * (1.0 if level is None else optim.layer_decay ** (depth - level)),
            weight_decay=getattr(optim.weight_decay, module) if decayed else 0.0,
            parameters=tuple(members[module, level, decayed]),
        )
        for module, level, decayed in sorted(members, key=lambda key: (key[0], key[1] or 0, not key[2]))
    ]


def module_of(name: str, prefixes: Mapping[str, str]) -> str:
    """The module a parameter belongs to, by the longest matching prefix."""
    found = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)
    assert found is not None, f"parameter {name} belongs to no module of {list(prefixes)}"
    return prefixes[found]


def kind_of(name: str, parameter: nn.Parameter) -> Kind:
    """What a parameter is, for weight decay; to be asked before ZeRO-3 flattens parameters."""
    if any(part in name for part in _EMBEDDINGS):
        return "embeddings"
    if name.endswith(_LAYER_SCALE):
        return "layer_scale"
    if name.endswith(".bias"):
        return "biases"
    return "matrices" if parameter.ndim > 1 else "norms"


def _depth(names: Iterable[str]) -> int:
    """Layers of the vision tower."""
    return 1 + max((int(found[1]) for name in names if (found := _VISION_LAYER.search(name))), default=-1)


def _level(name: str, depth: int) -> int:
    """0 for the embeddings, 1 for the first layer, `depth` for the last and for what follows it (BEiT, 2106.08254)."""
    found = _VISION_LAYER.search(name)
    if found:
        return int(found[1]) + 1
    return 0 if ".embeddings." in f".{name}" else depth


def _level_names(level: int | None) -> list[str]:
    if level is None:
        return []
    return ["embeddings" if level == 0 else f"layer{level - 1:02d}"]


def lr_factor(step: int, recipe: Recipe) -> float:
    """Factor on the peak rates in a step, counted from 0: linear warm-up, then the schedule down to `min_lr`."""
    warmup = warmup_steps(recipe)
    if step < warmup:
        return (step + 1) / warmup
    rest = max(recipe.steps - warmup, 1)
    done = min((step - warmup) / rest, 1.0)
    shapes = {"cosine": 0.5 * (1.0 + math.cos(math.pi * done)), "linear": 1.0 - done, "constant": 1.0}
    shape = shapes[recipe.optim.schedule]
    return recipe.optim.min_lr + (1.0 - recipe.optim.min_lr) * shape


def training_table(
    named: Sequence[tuple[str, nn.Parameter]], prefixes: Mapping[str, str], groups: Sequence[ParamGroup]
) -> str:
    """Text table: module, parameters, trainable ones, learning rate (lowest and highest of its layers), decay."""
    total: dict[str, int] = {}
    trained: dict[str, int] = {}
    for name, parameter in named:
        module = module_of(name, prefixes)
        total[module] = total.get(module, 0) + parameter.numel()
        trained[module] = trained.get(module, 0) + (parameter.numel() if parameter.requires_grad else 0)
    lines = [f"{'module':<12}{'parameters':>14}{'trainable':>14}{'lr':>20}{'decay':>9}"]
    for module in total:
        own = [group for group in groups if group.module == module]
        rates = sorted({group.lr for group in own})
        lr = " to ".join(f"{rate:.3g}" for rate in (rates[:1] + rates[1:][-1:])) if own else "frozen"
        decay = f"{max(group.weight_decay for group in own):g}" if own else "-"
        lines.append(f"{module:<12}{total[module]:>14,}{trained[module]:>14,}{lr:>20}{decay:>9}")
    lines.append(f"{'all':<12}{sum(total.values()):>14,}{sum(trained.values()):>14,}")
    return "\n".join(lines)
