"""A stock class, its configuration and a seed in; the very weights its constructor would draw out, one at a time.

The constructor runs once on the meta device while every random operation is made on scratch memory instead, so that the
generator moves as it would; the state before each is kept, and a parameter's own operations are done again on demand.
Memory: one parameter. `torch.manual_seed(seed); cls(config)` is what it equals, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

Apply = Callable[..., Any]


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Within this context new modules have their parameters on the meta device; buffers are made as ever.

    Stock constructors have no switch for this: `torch.device("meta")` would leave buffers (rotary frequencies) empty.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class DrawnWeights:
    """Fresh weights of a model; nothing is drawn before the first `read`."""

    files: tuple[Path, ...] = ()

    def __init__(self, build: Callable[[], nn.Module], seed: int) -> None:
        """Args: build: makes the model and draws from torch's global generator; seed: of that generator."""
        self._build = build
        self._seed = seed
        self._recorded: Mapping[str, _Recorded] | None = None

    def read(self, name: str) -> torch.Tensor:
        """A whole parameter, in the dtype that the constructor gives it."""
        if self._recorded is None:
            self._recorded = self._record()
        own = self._recorded[name]
        assert own.steps, f"{name}: its constructor's value is not drawn by an operation in place"
        value = torch.empty(own.like.shape, dtype=own.like.dtype)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for step in own.steps:
                step.do(value)
        return value

    def _record(self) -> Mapping[str, "_Recorded"]:
        recorder = _Recorder()
        with torch.random.fork_rng(devices=[]), parameters_on_meta(), recorder:
            torch.manual_seed(self._seed)
            model = self._build()
        return {name: recorder.of(parameter) for name, parameter in model.named_parameters()}


@dataclass(frozen=True, kw_only=True)
class _Step:
    """An operation in place on a parameter, or on a view of it.

    Attributes:
        views: how the view is made, each of the one before.
        state: of the generator before a random operation.
    """

    operation: Apply
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    views: tuple[Callable[[torch.Tensor], torch.Tensor], ...]
    state: torch.Tensor | None

    def do(self, value: torch.Tensor) -> None:
        if self.state is not None:
            torch.set_rng_state(self.state)
        for view in self.views:
            value = view(value)
        self.operation(value, *self.args, **self.kwargs)


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """A parameter on the meta device and what was done to it since it was last overwritten whole."""

    like: torch.Tensor
    steps: list[_Step]


class _Recorder(TorchDispatchMode):
    """Notes what is done to meta tensors, and makes their random operations on scratch memory of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[int, _Recorded] = {}
        self._views: dict[int, tuple[torch.Tensor, torch.Tensor, tuple[Callable[..., Any], ...]]] = {}

    def of(self, parameter: nn.Parameter) -> _Recorded:
        """What was done to a parameter."""
        return self._of.get(id(parameter)) or _Recorded(like=parameter, steps=[])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else None
        if not isinstance(target, torch.Tensor) or not target.is_meta:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            self._note(target, func, args[1:], kwargs)
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if func.is_view:
            _, root, views = self._views.get(id(target), (target, target, ()))
            rest = tuple(args[1:])
            self._views[id(result)] = (result, root, (*views, lambda value: func(value, *rest, **kwargs)))
        return result

    def _note(self, target: torch.Tensor, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        _, root, views = self._views.get(id(target), (target, target, ()))
        state = None
        if torch.Tag.nondeterministic_seeded in func.tags:
            state = torch.get_rng_state()
            func(torch.empty(target.shape, dtype=target.dtype), *args, **kwargs)
        own = self._of.setdefault(id(root), _Recorded(like=root, steps=[]))
        if not views and func in _OVERWRITE:
            own.steps.clear()
        own.steps.append(_Step(operation=func, args=args, kwargs=kwargs, views=views, state=state))


_ATEN = torch.ops.aten
_OVERWRITE = (
    _ATEN.uniform_.default,
    _ATEN.normal_.default,
    _ATEN.fill_.Scalar,
    _ATEN.zero_.default,
)
"""Operations after which nothing of the former value is left."""
