"""A stage, a DeepSpeed configuration and the memory of a card in; the estimate and the settings that fit out."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from data_shards.mixture import PackLimits
from models.activations import ModuleBytes
from trainer.footprint import as_in_recipe, footprint
from trainer.memory import GIB, Footprint, Memory, Zero, estimate, table
from trainer.stages.base import Stage

_MODULES = ("vision", "language")
"""Whose layers a recipe may have checkpointed."""

_FACTORS = (2, 1.5, 1.25, 1, 0.75, 0.5, 0.375, 0.25, 0.125)
"""Tried on both limits of a pack, largest first."""

_ANYTHING = PackLimits(max_tokens=1, max_tiles=1)


def memory_report(stage: Stage, zero: Zero, *, gpu_gib: float | None = None, least: PackLimits = _ANYTHING) -> str:
    """The table of the recipe's settings, and with the memory of a card, in GiB, whether they fit and what else would.

    What a GPU needs for itself is counted where a card is named or training is in 16 bits.

    Args:
        least: limits that the data need; smaller ones are not suggested.
    """
    data, counts = stage.recipe.data, as_in_recipe(stage)
    memory = estimate(_footprint(stage, zero), zero, counts, gpu=gpu_gib is not None or zero.item == 2)
    checkpointed = ", ".join(f"{name} {count}" for name, count in counts.items())
    title = (
        f"memory, estimated: packs of {data.max_tokens} tokens and {data.max_tiles} tiles, ZeRO-{zero.stage} on "
        f"{zero.world_size} ranks, {8 * zero.item} bits, checkpointed layers: {checkpointed}"
    )
    lines = [table(memory, title)]
    if gpu_gib is not None:
        lines += _advice(stage, zero, memory, gpu_gib, least)
    return "\n".join(lines)


def fewest_checkpointed(
    stage: Stage, zero: Zero, gpu_gib: float, free: Sequence[str] = _MODULES
) -> dict[str, int] | None:
    """Layers of each module that have to be checkpointed for a card, with the recipe's limits; None where all are too
    few. Modules that are not `free` keep the recipe's number."""
    fixed = {name: count for name, count in as_in_recipe(stage).items() if name not in free}
    return cheapest(_footprint(stage, zero), zero, gpu_gib * GIB, fixed)


def memory_of(stage: Stage, zero: Zero) -> Memory:
    """The estimate of the recipe's own settings on a GPU."""
    return estimate(_footprint(stage, zero), zero, as_in_recipe(stage))


def _advice(stage: Stage, zero: Zero, memory: Memory, gpu_gib: float, least: PackLimits) -> list[str]:
    room, spare = gpu_gib * GIB, gpu_gib - memory.peak / GIB
    verdict = f"fits, {spare:.1f} GiB to spare" if spare >= 0 else f"does not fit, {-spare:.1f} GiB too much"
    lines = [f"in {gpu_gib:g} GiB: {verdict}"]
    here = cheapest(_footprint(stage, zero), zero, room)
    if here is not None:
        lines.append(f"fewest checkpointed layers that fit with these limits: {_setting(here)}")
    limits = {factor: _limits(stage, factor) for factor in _FACTORS}
    enough = [f for f in _FACTORS if limits[f][0] >= least.max_tokens and limits[f][1] >= least.max_tiles]
    tried = ((factor, cheapest(_footprint(stage, zero, factor), zero, room)) for factor in enough)
    largest = next(((factor, counts) for factor, counts in tried if counts is not None), None)
    if largest is None:
        lines.append(
            f"no limits fit that hold the largest frame with a question ({least.max_tokens} tokens, {least.max_tiles} "
            "tiles): take more GPUs under ZeRO-3, or a DeepSpeed configuration that offloads"
        )
    elif largest[0] != 1:
        (tokens, tiles), counts = limits[largest[0]], largest[1]
        lines.append(
            f"largest limits tried that fit: data.max_tokens={tokens} data.max_tiles={tiles} {_setting(counts)}"
        )
    return lines


def _footprint(stage: Stage, zero: Zero, factor: float = 1.0) -> Footprint:
    """What the stage holds for packs of the recipe's limits, both times a factor."""
    tokens, tiles = _limits(stage, factor)
    return footprint(stage, max_tokens=tokens, max_tiles=tiles, divided=zero.stage == 3)


def _limits(stage: Stage, factor: float) -> tuple[int, int]:
    data = stage.recipe.data
    return round(data.max_tokens * factor), round(data.max_tiles * factor)


def cheapest(
    footprint: Footprint, zero: Zero, room: float, fixed: Mapping[str, int] = MappingProxyType({})
) -> dict[str, int] | None:
    """The fewest checkpointed layers with which the estimate is at most `room` bytes; None where all are too few.

    Layers are taken one by one from the module that frees the most bytes for the work of running a layer again; the
    numbers of `fixed` stay.
    """
    known = [module for module in footprint.modules if module.name in _MODULES]
    free = [module for module in known if module.layers and module.name not in fixed]
    modules = sorted(free, key=_freed, reverse=True)
    counts = {module.name: fixed.get(module.name, 0) for module in known}
    while estimate(footprint, zero, counts).peak > room:
        module = next((m for m in modules if counts[m.name] < m.skipped + len(m.layers)), None)
        if module is None:
            return None
        counts[module.name] = max(counts[module.name], module.skipped) + 1
    return counts


def _freed(module: ModuleBytes) -> float:
    layer = module.layers[-1]
    return (layer.whole - layer.input) / layer.flops


def _setting(counts: Mapping[str, int]) -> str:
    return "model.checkpointing={" + ", ".join(f"{name}: {count}" for name, count in counts.items()) + "}"
