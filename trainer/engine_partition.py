"""Parameters that ZeRO-3 divides among ranks: placed part by part as they are read, and put together again.

Called on all ranks, in the same order.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from models.loading import give
from trainer.dist import Ranks
from trainer.ds_config import zero_stage
from trainer.engine_import import import_deepspeed

_PIECE = 1 << 23
"""Elements of a part that are sent at a time."""


class Partition:
    """Where ZeRO-3 puts parameters: the main rank reads each one whole, every rank keeps its part of it.

    A `models.loading.Placement`; `place` and `serve` are called on all ranks, in the same order. A rank holds its parts
    and one parameter. What fails on the main rank is raised on all.
    """

    def __init__(self, config: Mapping[str, Any], ranks: Ranks) -> None:
        """Args: config: as `trainer.ds_config.resolve` returns, of ZeRO stage 3."""
        assert zero_stage(config) == 3, "only ZeRO-3 partitions parameters"
        deepspeed = import_deepspeed()
        backend = deepspeed.accelerator.get_accelerator().communication_backend_name()
        deepspeed.init_distributed(dist_backend=backend, dist_init_required=False)
        self._config = dict(config)
        self._ranks = ranks
        self._split: Callable[..., None] | None = None

    @property
    def device(self) -> torch.device:
        """Where whole parameters are gathered, and where buffers belong."""
        return self._ranks.device()

    def place(self, parameter: nn.Parameter, dtype: torch.dtype, read: Callable[[], torch.Tensor]) -> None:
        """See `models.loading.Placement`.

        Raises:
            MainRankError: on the other ranks, where `read` raised on the main one.
        """
        values: list[torch.Tensor] = []
        self._ranks.on_main(lambda: values.append(read().to(device=self.device, dtype=dtype)))
        give(parameter, values.pop() if values else torch.empty(parameter.shape, dtype=dtype, device=self.device))
        if self._split is None:
            import_deepspeed().zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=self._config)
            self._split = parameter.convert_to_zero_parameters  # type: ignore[attr-defined]
        else:
            self._split(param_list=[parameter])

    def serve(self, module: nn.Module) -> Callable[..., Any]:
        """The forward of a frozen module whose parameters were placed here; they are gathered as they are needed.

        Gradients may pass through it to its inputs. What is returned is the module itself, since DeepSpeed's engine
        around it refuses a backward pass that it did not begin.
        """
        config = {name: value for name, value in self._config.items() if name != "optimizer"}
        config["zero_optimization"] = {
            name: value for name, value in self._config["zero_optimization"].items() if name != "offload_optimizer"
        }
        engine, *_ = import_deepspeed().initialize(model=module, config=config, dist_init_required=False)
        engine.eval()
        return engine.module


def whole_parameters(module: nn.Module, ranks: Ranks) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Parameters by name; to be taken on all ranks alike.

    A partitioned one is whole on the CPU of the main rank and None on the others, which send their parts piece by piece
    and hold no more than before.
    """
    for name, parameter in module.named_parameters():
        yield name, _joined(parameter, ranks) if is_divided(parameter) else parameter.detach()


def _joined(parameter: Any, ranks: Ranks) -> torch.Tensor | None:
    """The parts of a parameter, equally long but for the padding behind the last, in the order of the ranks."""
    part = parameter.ds_tensor.detach()
    whole: torch.Tensor | None = None
    for start in range(0, part.numel(), _PIECE):
        piece = part[start : start + _PIECE].to(ranks.device())
        for rank, received in enumerate(ranks.collect(piece)):
            if whole is None:
                whole = torch.empty(ranks.world_size, part.numel(), dtype=part.dtype)
            whole[rank, start : start + piece.numel()] = received
    return None if whole is None else whole.view(-1)[: parameter.ds_numel].view(parameter.ds_shape)


def parameters_everywhere(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, each whole on every rank until the next is asked for; to be taken on all ranks alike."""
    for parameter in module.parameters():
        gathered = import_deepspeed().zero.GatheredParameters([parameter]) if is_divided(parameter) else nullcontext()
        with gathered:
            yield parameter.detach()


def is_divided(parameter: nn.Parameter) -> bool:
    """Whether each rank holds only its part of it."""
    return hasattr(parameter, "ds_id")
