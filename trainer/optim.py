"""Named parameters and the recipe in; parameter groups, learning-rate factors and the table of what is trained out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from trainer.config import Recipe, warmup_steps
from trainer.recipe import OptimSection


@dataclass(frozen=True, kw_only=True, eq=False)
class ParamGroup:
    """Parameters that share learning rate and weight decay.

    Attributes:
        name: `module/decay` or `module/no_decay`.
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
    """Groups of the trainable parameters by module, and by whether they are decayed.

    Matrices and convolutions are decayed; vectors (norms, biases, LayerScale) and embeddings are not.

    Args:
        named: parameters with their names.
        prefixes: name prefix to module; each parameter must match one.
        optim: rates and decay.

    Returns:
        non-empty groups, in a fixed order.
    """
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            key = (module_of(name, prefixes), is_decayed(name, parameter))
            members.setdefault(key, []).append(parameter)
    return [
        ParamGroup(
            name=f"{module}/{'decay' if decayed else 'no_decay'}",
            module=module,
            lr=getattr(optim.lr, module),
            weight_decay=optim.weight_decay if decayed else 0.0,
            parameters=tuple(members[module, decayed]),
        )
        for module, decayed in sorted(members, key=lambda key: (key[0], not key[1]))
    ]


def module_of(name: str, prefixes: Mapping[str, str]) -> str:
    """The module a parameter belongs to, by the longest matching prefix."""
    found = max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)
    assert found is not None, f"parameter {name} belongs to no module of {list(prefixes)}"
    return prefixes[found]


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies; to be asked before ZeRO-3 flattens parameters."""
    embedding = any(part in name for part in ("embed_tokens", "position_embeddings", "cls_token"))
    return parameter.ndim > 1 and not embedding


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
    """Text table: module, parameters, trainable ones, learning rate, decay."""
    total: dict[str, int] = {}
    trained: dict[str, int] = {}
    for name, parameter in named:
        module = module_of(name, prefixes)
        total[module] = total.get(module, 0) + parameter.numel()
        trained[module] = trained.get(module, 0) + (parameter.numel() if parameter.requires_grad else 0)
    lines = [f"{'module':<12}{'parameters':>14}{'trainable':>14}{'lr':>10}{'decay':>9}"]
    for module in total:
        own = [group for group in groups if group.module == module]
        lr = f"{own[0].lr:g}" if own else "frozen"
        decay = f"{max(group.weight_decay for group in own):g}" if own else "-"
        lines.append(f"{module:<12}{total[module]:>14,}{trained[module]:>14,}{lr:>10}{decay:>9}")
    lines.append(f"{'all':<12}{sum(total.values()):>14,}{sum(trained.values()):>14,}")
    return "\n".join(lines)
