"""A model, parameter groups and a resolved configuration in; forward, backward, step, snapshot and restore out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer import engine_state
from trainer.ds_config import precision
from trainer.engine_import import build_errors, import_deepspeed
from trainer.engine_partition import is_divided
from trainer.fragments import FragmentReader
from trainer.grad_norms import grad_squares
from trainer.optim import ParamGroup


class EngineError(RuntimeError):
    """DeepSpeed cannot do what was asked; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Training state at one moment.

    Attributes:
        tensors: this rank's fragments, see `trainer.fragments`.
        shapes: of all trained parameters.
        counters: see `trainer.engine_state.counters`.
        precision: see `trainer.ds_config.precision`; empty in checkpoints that did not keep it.
    """

    tensors: Mapping[str, torch.Tensor]
    shapes: Mapping[str, list[int]]
    counters: Mapping[str, Mapping[str, float]]
    precision: str


class Engine:
    """A model under DeepSpeed, trained in `precision`. Calling it is the model's forward; every method is called on all
    ranks."""

    def __init__(self, model: nn.Module, groups: Sequence[ParamGroup], config: Mapping[str, Any]) -> None:
        """Partition the model and make the optimiser.

        Args:
            model: on the CPU or its device; changed in place.
            groups: what is trained.
            config: as `trainer.ds_config.resolve` returns.

        Raises:
            EngineError: an optimiser that has to be compiled, without a compiler.
        """
        deepspeed = import_deepspeed()
        members = [
            {"params": list(g.parameters), "lr": g.lr, "weight_decay": g.weight_decay, "name": g.name} for g in groups
        ]
        try:
            self._engine, *_ = deepspeed.initialize(
                model=model, model_parameters=members, config=dict(config), dist_init_required=False
            )
        except build_errors() as error:
            if not _failed_to_build(error):
                raise
            raise EngineError(
                f"DeepSpeed cannot build its optimiser: {error}. Install g++ and ninja (on GPUs also nvcc), or write "
                '"torch_adam": true into optimizer.params of the DeepSpeed configuration, which needs no compiler'
            ) from error
        problem = engine_state.slots_problem(self._engine)
        if problem:
            raise EngineError(f"this DeepSpeed configuration cannot be saved: {problem}")
        self._peaks = {group.name: group.lr for group in groups}
        self._module_of = {parameter: group.module for group in groups for parameter in group.parameters}
        self._squares: dict[str, torch.Tensor] = {}
        self._dropped = False
        self.precision = precision(config)

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        return torch.device(self._engine.device)

    @property
    def module(self) -> nn.Module:
        """The model itself; under ZeRO-3 its parameters are empty outside a forward or `parameters_everywhere`."""
        return self._engine.module

    @property
    def partitioned(self) -> bool:
        """Whether each rank holds only a part of each parameter, as under ZeRO-3."""
        return any(is_divided(parameter) for parameter in self._module_of)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._engine(*args, **kwargs)

    def set_lr(self, factor: float) -> dict[str, float]:
        """Set each group's learning rate to its peak times `factor`; returns them by group name."""
        rates = {}
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._peaks[group["name"]] * factor
            rates[group["name"]] = group["lr"]
        return rates

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a micro batch; DeepSpeed divides by accumulation steps and averages over ranks."""
        self._engine.backward(loss)

    def step(self) -> None:
        """End of a micro batch; updates at the last of a step, unless a gradient is not finite: see `skipped`."""
        if self._engine.is_gradient_accumulation_boundary():
            self._squares = grad_squares(self._engine.optimizer, self._module_of, self._engine.world_size)
            self._dropped = self._drop_bad_gradients()
            if self._dropped:
                return
        self._engine.step()

    @property
    def skipped(self) -> bool:
        """Whether the last step was left out, the same on all ranks: weights and optimiser state are as before it.

        DeepSpeed's optimisers leave it out where the global gradient norm is not finite.
        """
        return self._dropped or bool(getattr(self._engine.optimizer, "overflow", False))

    def grad_norm(self) -> float:
        """Global gradient norm of the last update, before clipping."""
        return float(self._engine.get_global_grad_norm() or 0.0)

    def grad_squares(self) -> dict[str, float]:
        """This rank's share of the squared gradient norm of the last step, by module; sums over ranks are whole.

        Empty where DeepSpeed keeps gradients in the CPU's memory.
        """
        return {module: float(square) for module, square in self._squares.items()}

    def _drop_bad_gradients(self) -> bool:
        """Leave out the step of an optimiser that checks nothing: torch's own, under ZeRO stage 0 in float32. The
        gradients of all ranks are equal by now."""
        checks = hasattr(self._engine.optimizer, "overflow")
        if checks or all(bool(square.isfinite()) for square in self._squares.values()):
            return False
        self._engine.zero_grad()
        self._engine.micro_steps += 1
        self._engine.global_steps += 1
        return True

    def snapshot(self, *, with_replicated: bool) -> Snapshot:
        """This rank's part of master weights and optimiser state, copied to host memory; frozen weights are left out.

        Args:
            with_replicated: on one rank only, which keeps what all ranks hold alike.
        """
        tensors = engine_state.read_fragments(self._engine, with_replicated=with_replicated)
        counters = engine_state.counters(self._engine)
        return Snapshot(tensors=tensors, shapes=self._shapes(), counters=counters, precision=self.precision)

    def restore(self, snapshot: Snapshot, reader: FragmentReader) -> None:
        """Go back to a snapshot that any number of ranks made, up to `refresh`; rates and decay stay the recipe's.

        Args:
            snapshot: `tensors` are not looked at.
            reader: gives the tensors of all ranks.

        Raises:
            EngineError: other parameters are trained.
            WeightsFileError: part of a parameter is in no file.
        """
        own = self._shapes()
        if own != snapshot.shapes:
            differing = sorted(n for n in {**own, **snapshot.shapes} if own.get(n) != snapshot.shapes.get(n))
            raise EngineError(
                f"other parameters are trained: {differing[0]}: saved {snapshot.shapes.get(differing[0])}, got "
                f"{own.get(differing[0])} ({len(differing)} differ); start with the recipe and the models of the run"
            )
        engine_state.write_fragments(self._engine, reader)
        engine_state.set_counters(self._engine, snapshot.counters)

    def refresh(self) -> None:
        """Make the model compute with the restored master weights; to be called when all ranks have restored."""
        engine_state.refresh(self._engine)

    def _shapes(self) -> dict[str, list[int]]:
        return engine_state.parameter_shapes(self._engine.module)


def _failed_to_build(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is about a compiler."""
    if error is None:
        return False
    message = str(error).lower()
    named = any(word in message for word in ("compil", "ninja", "failed to build", "cuda_home"))
    return named or _failed_to_build(error.__cause__ or error.__context__)
