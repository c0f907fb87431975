"""A DeepSpeed engine in, its fragments out (see `trainer.fragments`): master weights and Adam's states of this rank.

And back into an engine of any number of ranks. What a group is trained with (learning rate, decay) is not part of it:
that is the recipe's, and stays what the engine was made with. Adam's step is given to each flat tensor on its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer.fragments import MASTER, FragmentReader, fragment_name, number_name

_COUNTERS = ("global_steps", "global_samples", "skipped_steps")
_LOOKS_FOR_SCALE = "cur_iter"
"""Kept by a dynamic loss scale alone."""
_SCALER = ("cur_scale", _LOOKS_FOR_SCALE, "last_overflow_iter", "cur_hysteresis")


@dataclass(frozen=True, kw_only=True, eq=False)
class Slot:
    """Where this rank's part of a parameter lies: values [start, start + count) of it, in a flat tensor at `offset`.

    Attributes:
        parameter: its name.
        flat: float32 master weights, by which the optimiser knows its states.
        replicated: all ranks hold it alike.
    """

    parameter: str
    start: int
    count: int
    flat: torch.Tensor
    offset: int
    replicated: bool = False

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """This part of a tensor that is laid out as `flat`."""
        return tensor.detach().reshape(-1).narrow(0, self.offset, self.count)


def parameter_shapes(module: nn.Module) -> dict[str, list[int]]:
    """Whole shapes of the trained parameters by name, partitioned or not."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    return {name: list(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in trained}


def read_fragments(engine: Any, *, with_replicated: bool) -> dict[str, torch.Tensor]:
    """Copies in host memory of what this rank holds; every value is held by one rank, but for replicas of MiCS.

    Args:
        engine: DeepSpeed's, between two steps.
        with_replicated: on one rank only, which is the one to keep what all ranks hold alike.
    """
    states = _base_optimizer(engine).state
    tensors = {}
    for slot in _slots(engine):
        if not slot.count or (slot.replicated and not with_replicated):
            continue
        own = slot.parameter
        tensors[fragment_name(own, MASTER, slot.start)] = slot.of(slot.flat)
        for key, value in states.get(slot.flat, {}).items():
            if torch.is_tensor(value) and value.shape == slot.flat.shape:
                tensors[fragment_name(own, key, slot.start)] = slot.of(value)
            else:
                tensors[number_name(own, key)] = torch.tensor([float(value)], dtype=torch.float64)
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}


def write_fragments(engine: Any, reader: FragmentReader) -> None:
    """Put the parts of this rank where they belong; exchanges nothing, and leaves the model as it was until `refresh`.

    Raises:
        WeightsFileError: a part is in no file.
    """
    base = _base_optimizer(engine)
    for slot in _slots(engine):
        if slot.count:
            _fill_slot(slot, reader, base)


def refresh(engine: Any) -> None:
    """Model weights from the master weights, as after an update; called on all ranks."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()


def counters(engine: Any) -> dict[str, dict[str, float]]:
    """What DeepSpeed counts: steps, and under fp16 the state of its loss scale."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    return {
        "engine": {name: getattr(engine, name) for name in _COUNTERS},
        "loss_scaler": {name: vars(scaler)[name] for name in _SCALER if scaler is not None and name in vars(scaler)},
    }


def set_counters(engine: Any, record: Mapping[str, Mapping[str, float]]) -> None:
    """The inverse of `counters`, under any stage and precision.

    A loss scale is taken over where both engines look for theirs, as under fp16; elsewhere it starts as configured.
    """
    for name, value in record["engine"].items():
        setattr(engine, name, value)
    found = record["loss_scaler"]
    if _LOOKS_FOR_SCALE in found and _LOOKS_FOR_SCALE in counters(engine)["loss_scaler"]:
        for name, value in found.items():
            setattr(engine.optimizer.loss_scaler, name, value)


def slots_problem(engine: Any) -> str:
    """Why the state of an engine could not be saved; empty where it can."""
    optimizer = engine.optimizer
    if getattr(optimizer, "swap_optimizer", False) or getattr(optimizer, "params_in_nvme_and_cpu", False):
        return "offload to nvme keeps the optimiser's state out of memory; set the offload device to cpu"
    if getattr(optimizer, "partial_offload", 1.0) not in (0.0, 1.0):
        return "offload_optimizer.ratio divides the optimiser in two; set it to 1"
    if _find_slots(optimizer) is None:
        return (
            f"{type(optimizer).__name__} holds float32 weights of its own kind; set zero_optimization.stage from 1 to 3"
        )
    return ""


def _fill_slot(slot: Slot, reader: FragmentReader, base: torch.optim.Optimizer) -> None:
    state = base.state[slot.flat]
    for key in reader.keys(slot.parameter):
        values = reader.read(slot.parameter, key, slot.start, slot.count)
        if key != MASTER and key not in state:
            state[key] = torch.zeros_like(slot.flat, requires_grad=False)
        slot.of(slot.flat if key == MASTER else state[key]).copy_(values)
    for key, number in reader.numbers(slot.parameter).items():
        # A tensor of its own: one that several flat tensors share would count several steps an update.
        state[key] = _counted(number, slot.flat, base)


def _counted(number: float, flat: torch.Tensor, base: torch.optim.Optimizer) -> torch.Tensor | int:
    """A step counter as the optimiser keeps it: torch's fused one where its weights are."""
    if not isinstance(base, torch.optim.Adam):
        return int(number)
    device = flat.device if base.defaults["fused"] else torch.device("cpu")
    return torch.tensor(number, dtype=torch.float32, device=device)


def _base_optimizer(engine: Any) -> torch.optim.Optimizer:
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _slots(engine: Any) -> list[Slot]:
    find = _find_slots(engine.optimizer)
    assert find is not None, slots_problem(engine)
    trained = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]
    return [slot for name, parameter in trained for slot in find(engine.optimizer, name, parameter)]


def _find_slots(optimizer: Any) -> Callable[[Any, str, Any], list[Slot]] | None:
    """How a kind of optimiser lays out its weights: ZeRO-3; ZeRO-1, ZeRO-2 and bf16; or a plain one of torch."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return _partitioned_slots
    if hasattr(optimizer, "update_lp_params"):
        return _mapped_slots
    return _whole_slots if isinstance(optimizer, torch.optim.Optimizer) else None


def _partitioned_slots(optimizer: Any, name: str, parameter: Any) -> list[Slot]:
    """ZeRO-3: rank r has the r-th of equal parts, of which the last ones may be padding."""
    group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start = min(optimizer._get_param_partition_rank(parameter) * size, parameter.ds_numel)
    count = min(size, parameter.ds_numel - start)
    flat = optimizer.fp32_partitioned_groups_flat[group]
    return [Slot(parameter=name, start=start, count=count, flat=flat, offset=offset)]


def _mapped_slots(optimizer: Any, name: str, parameter: Any) -> list[Slot]:
    """ZeRO-1, ZeRO-2 and bf16: a rank has an equal part of each group, which cuts parameters anywhere."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return []
    (flat,) = optimizer.optimizer.param_groups[mapping.param_group_index]["params"]
    place, own = mapping.lp_fragment_address, mapping.hp_fragment_address
    return [Slot(parameter=name, start=place.start, count=place.numel, flat=flat, offset=own.start)]


def _whole_slots(optimizer: Any, name: str, parameter: Any) -> list[Slot]:
    """Stage 0 in float32: every rank has everything."""
    return [Slot(parameter=name, start=0, count=parameter.numel(), flat=parameter, offset=0, replicated=True)]
