"""What a stage holds, its packs and a DeepSpeed configuration in; the memory of one GPU by part out. Pure arithmetic.

Weights, gradients, optimiser and buffers follow from DeepSpeed 0.19's own allocations, activations from
`models.activations`. The reserve is an assumption.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.activations import ModuleBytes

GIB = 2**30

_CONTEXT = 1.5 * GIB
"""Assumed: CUDA context, workspaces of matrix kernels, buffers of NCCL."""

_FRAGMENTS = 0.03
"""Assumed: memory of torch's allocator that lies between tensors, as a part of the rest."""

_PRECISE = 4
_STATES = 3
"""Float32 copies that AdamW keeps of a trained parameter: master weight and two moments."""


@dataclass(frozen=True, kw_only=True)
class Zero:
    """How DeepSpeed divides and buffers.

    Attributes:
        stage: of ZeRO, 0 to 3.
        world_size: ranks.
        item: bytes of a number in training precision.
        offload_optimizer, offload_param: to the host.
        reduce_bucket: numbers of a bucket of gradients.
        live: most numbers of gathered parameters under ZeRO-3.
        overlap: reduction while the backward pass goes on, with a second bucket.
        precise_gradients: those of micro batches are added up in float32.
    """

    stage: int
    world_size: int
    item: int
    offload_optimizer: bool = False
    offload_param: bool = False
    reduce_bucket: int = 500_000_000
    live: int = 1_000_000_000
    overlap: bool = False
    precise_gradients: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], world_size: int) -> "Zero":
        """As a resolved configuration says, with DeepSpeed's own defaults."""
        zero = config.get("zero_optimization", {})
        stage = int(zero.get("stage", 0))
        half = any(config.get(name, {}).get("enabled") for name in ("bf16", "fp16"))
        return cls(
            stage=stage,
            world_size=world_size,
            item=2 if half else 4,
            offload_optimizer=_offloads(zero, "offload_optimizer"),
            offload_param=_offloads(zero, "offload_param"),
            reduce_bucket=int(zero.get("reduce_bucket_size", cls.reduce_bucket)),
            live=int(zero.get("stage3_max_live_parameters", cls.live)),
            overlap=bool(zero.get("overlap_comm", stage == 3)),
            precise_gradients=config.get("data_types", {}).get("grad_accum_dtype") == "fp32",
        )


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What a stage holds for packs of certain limits.

    Attributes:
        parameters, trained: numbers in the model under DeepSpeed.
        beside: numbers of frozen parts beside it (a teacher), whole on every rank.
        beside_divided: of those that are partitioned on their own.
        modules: with layers, in the order of the forward pass.
        others: kept activations of what has no layers, by name.
        loss: bytes kept until the backward pass, and held beside them for a moment.
        forward_alone: most bytes at one moment of a forward pass without gradients, before everything else.
        tiles: bytes of images on the device.
    """

    parameters: int
    trained: int
    beside: int = 0
    beside_divided: int = 0
    modules: tuple[ModuleBytes, ...]
    others: Mapping[str, float]
    loss: tuple[float, float]
    forward_alone: float
    tiles: float


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU by part, which add up to its peak, and of one rank's share of the host."""

    parts: Mapping[str, float]
    host: float

    @property
    def peak(self) -> float:
        """All parts together."""
        return sum(self.parts.values())


def estimate(footprint: Footprint, zero: Zero, checkpointed: Mapping[str, int], *, gpu: bool = True) -> Memory:
    """Memory at the worst moment of a step.

    Args:
        checkpointed: layers of each module that keep only their input.
        gpu: count the reserve.
    """
    parts, host = model_state(footprint, zero)
    parts["tiles"] = footprint.tiles
    activations = {f"activations: {m.name}": m.kept(checkpointed.get(m.name, 0)) for m in footprint.modules}
    activations |= {f"activations: {name}": kept for name, kept in footprint.others.items()}
    activations["activations: loss"] = footprint.loss[0]
    kept = sum(activations.values())
    moment = max(_backward_peak(footprint, checkpointed), _update(footprint, zero), footprint.forward_alone)
    parts |= activations
    parts["for a moment"] = max(moment - kept, 0.0)
    if gpu:
        parts["reserve (assumed)"] = _CONTEXT + _FRAGMENTS * sum(parts.values())
    return Memory(parts=parts, host=host)


def model_state(footprint: Footprint, zero: Zero) -> tuple[dict[str, float], float]:
    """Bytes of weights, gradients, optimiser, gathered parameters and buffers, and of the host."""
    ranks, item = zero.world_size, zero.item
    whole = float(footprint.parameters * item)
    divided = zero.stage == 3
    weights = whole / ranks if divided else whole
    gradient = _PRECISE if zero.precise_gradients else item
    gradients = float(footprint.trained * gradient) / (1 if zero.stage < 2 else ranks)
    optimiser = _STATES * _PRECISE * footprint.trained / (ranks if zero.stage else 1)
    host = 0.0
    if zero.offload_optimizer:
        host += optimiser + gradients
        optimiser, gradients = 0.0, (0.0 if divided else gradients)
    if zero.offload_param and divided:
        host += weights
        weights = 0.0
    gathered = min(footprint.parameters, zero.live) * item if divided and (ranks > 1 or zero.offload_param) else 0.0
    part = footprint.beside_divided * item / ranks
    if ranks > 1 or zero.offload_param:
        gathered += min(footprint.beside_divided, zero.live) * item
    if zero.offload_param:
        host, part = host + part, 0.0
    buckets = zero.reduce_bucket * item * (2 if zero.overlap and zero.stage in (1, 2) else 1) if zero.stage else 0.0
    parts = {
        "weights": weights,
        "gradients": gradients,
        "optimiser": optimiser,
        "gathered parameters": gathered,
        "reduction buckets": buckets,
        "teacher": footprint.beside * item + part,
    }
    return {name: size for name, size in parts.items() if size or name in ("weights", "gradients", "optimiser")}, host


def _backward_peak(footprint: Footprint, checkpointed: Mapping[str, int]) -> float:
    """Most bytes of activations: at the loss, or in the backward pass of a module, those behind it being gone."""
    before = sum(footprint.others.values())
    kept = [module.kept(checkpointed.get(module.name, 0)) for module in footprint.modules]
    moments = [before + sum(kept) + sum(footprint.loss)]
    for index, module in enumerate(footprint.modules):
        moments.append(before + sum(kept[:index]) + module.backward_peak(checkpointed.get(module.name, 0)))
    return max(moments)


def _update(footprint: Footprint, zero: Zero) -> float:
    """Gradients laid end to end, and the same in float32, which the optimiser takes; there are no activations then."""
    if zero.offload_optimizer:
        return 0.0
    flat = zero.item if zero.stage and zero.item < _PRECISE else 0
    return (flat + _PRECISE) * footprint.trained / (zero.world_size if zero.stage else 1)


def table(memory: Memory, title: str) -> str:
    """The parts as text, in GiB."""
    lines = [title]
    lines += [f"  {name:<28}{size / GIB:>9.2f} GiB" for name, size in memory.parts.items()]
    lines.append(f"  {'peak of a GPU':<28}{memory.peak / GIB:>9.2f} GiB")
    if memory.host:
        lines.append(f"  {'host, for a rank':<28}{memory.host / GIB:>9.2f} GiB")
    return "\n".join(lines)


def _offloads(zero: Mapping[str, Any], name: str) -> bool:
    return zero.get(name, {}).get("device", "none") != "none"
