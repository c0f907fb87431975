"""Full-size steps without a GPU: `python -m benchmarks.traced_memory` runs the stages' own code forward and backward on
torch's meta device, where tensors have shapes and no numbers, and compares the bytes that are held with the estimate.

A pack of the limits' size is run, in which every token is a label: the worst that the estimate allows for. Kernels of
GPUs that cannot be traced stand for themselves with what they take, return and keep. Not traced: DeepSpeed's own
buffers, the update, and what a GPU needs for itself. Gradients of parameters do not count: the estimate has them with
the model's state.
"""

import argparse
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.traced_kernels import traced_kernels
from data_shards.atomic import write_json
from data_shards.collate import Batch
from models.distill_heads import Codebook, DistillStudent
from trainer.bench.packs import random_batches
from trainer.bench.settings import PRESETS, BenchSettings, bench_recipe, pack_settings, write_codebook
from trainer.checkpointing_section import CheckpointingSection
from trainer.memory import GIB, Memory, Zero
from trainer.memory_fit import memory_of
from trainer.stages import make_stage
from trainer.stages.base import Stage
from trainer.stages.distill import DistillStage

META = torch.device("meta")
_BLOCK = 512
"""Bytes that torch's allocator on a GPU rounds up to."""


class HeldBytes(TorchDispatchMode):
    """Counts the bytes of meta tensors that are made while it is on and still held, by anybody.

    Attributes:
        held: now.
        peak: most so far.
    """

    def __init__(self, *, without: Sequence[torch.Tensor] = ()) -> None:
        """Tensors of `without` do not count."""
        super().__init__()
        self.held = self.peak = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in without}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device == META:
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place in self._sizes:
            return
        self._sizes[place] = -(-storage.nbytes() // _BLOCK) * _BLOCK
        self.held += self._sizes[place]
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._forget, place)

    def _forget(self, place: int) -> None:
        self.held -= self._sizes.pop(place)


def drop_gradients(module: torch.nn.Module) -> None:
    """From now on a parameter's gradient is dropped as soon as it is there."""

    def drop(parameter: torch.Tensor) -> None:
        parameter.grad = None

    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(drop)


@dataclass(frozen=True, kw_only=True)
class Traced:
    """One step.

    Attributes:
        tokens, tiles: of its pack.
        kept: bytes held at the end of the forward pass, its tiles among them.
        peak: most bytes held at one moment of both passes.
        estimated: for packs of this size.
    """

    tokens: int
    tiles: int
    kept: int
    peak: int
    estimated: Memory

    @property
    def estimated_kept(self) -> float:
        """What the estimate says of `kept`."""
        parts = self.estimated.parts
        return parts["tiles"] + sum(size for name, size in parts.items() if name.startswith("activations"))

    @property
    def estimated_peak(self) -> float:
        """What it says of `peak`."""
        return self.estimated_kept + self.estimated.parts["for a moment"]


def traced_step(settings: BenchSettings) -> Traced:
    """Run a step of a stage in bfloat16 on the meta device.

    Args:
        settings: `kernels` may be plain, or anything else for kernels that keep what Liger's do; the pack has at most
            `tokens` and `tiles`, and the estimate is for what it really has.
    """
    with tempfile.TemporaryDirectory() as directory, traced_kernels():
        stage = _stage(settings, Path(directory))
        (batch,) = random_batches(pack_settings(stage, settings), stage.cost(), 1)
        size = replace(settings, tokens=len(batch.input_ids) or settings.tokens, tiles=len(batch.tiles))
        sized = _stage(size, Path(directory))
    weights = list(_on_meta(stage))
    drop_gradients(stage.model)
    stage.train_mode()
    with HeldBytes(without=weights) as bytes_:
        out = stage.loss(stage.model, _all_labels(batch), META)
        kept = bytes_.held
        out.total.backward()
    return Traced(
        tokens=len(batch.input_ids),
        tiles=len(batch.tiles),
        kept=kept,
        peak=bytes_.peak - _summed_gradient(stage),
        estimated=memory_of(sized, Zero(stage=1, world_size=1, item=2, offload_optimizer=True)),
    )


def _stage(settings: BenchSettings, directory: Path) -> Stage:
    recipe = bench_recipe(settings, directory)
    if settings.cached:
        write_codebook(recipe, settings.preset)
    return make_stage(recipe, torch.bfloat16, loaded=False)


def _on_meta(stage: Stage) -> Iterator[torch.Tensor]:
    """Put all that a stage computes with on the meta device; its tensors."""
    modules: list[torch.nn.Module] = [stage.model]
    if isinstance(stage, DistillStage):
        modules += [stage.teacher] if stage.teacher is not None else []
        assert isinstance(stage.model, DistillStudent)
        width = stage.model.bridges[0].out_features
        assert isinstance(width, int)
        stage.codebook = Codebook(torch.empty(stage.recipe.distill.codebook_size, width, device=META))
        yield from stage.codebook.buffers()
    for module in modules:
        module.to(META, stage.dtype)
        yield from module.parameters()
        yield from module.buffers()


def _summed_gradient(stage: Stage) -> int:
    """Bytes of the head's gradient, which is held while it is added up from the parts that the head runs in."""
    weights = [p for name, p in stage.model.named_parameters() if name.endswith("lm_head.weight") and p.requires_grad]
    return sum(weight.nbytes for weight in weights)


def _all_labels(batch: Batch) -> Batch:
    """The pack with every token a label; as it is where it has no words."""
    tokens = len(batch.input_ids)
    if not tokens:
        return batch
    return replace(
        batch,
        label_positions=torch.arange(tokens),
        label_targets=batch.input_ids.long(),
        label_weights=torch.ones(tokens),
        label_questions=torch.zeros(tokens, dtype=torch.int32),
    )


_LAYERS = ((0, 0), (20, 0), (24, 24))
"""Checkpointed layers of vision and language."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trace, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traced_memory", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="drivlm-2b")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--tiles", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/traced_memory.json"))
    options = parser.parse_args(arguments)
    rows = []
    print(f"{'GiB':<34}{'kept':>8}{'estimated':>10}{'peak':>8}{'estimated':>10}{'of peak':>9}")
    for settings in _cases(options):
        traced = traced_step(settings)
        layers = settings.checkpointing
        assert layers is not None
        name = f"{settings.stage}, {settings.kernels}, {layers.vision} and {layers.language} again"
        sizes = (traced.kept, traced.estimated_kept, traced.peak, traced.estimated_peak)
        ratio = traced.estimated_peak / traced.peak
        print(
            f"{name:<34}" + "".join(f"{size / GIB:>{9 if at % 2 else 8}.2f}" for at, size in enumerate(sizes)),
            f"{ratio:>9.3f}",
        )
        rows.append({"name": name, "tokens": traced.tokens, "tiles": traced.tiles, "bytes": sizes, "ratio": ratio})
    write_json(options.out, {"torch": torch.__version__, "rows": rows})
    return 0


def _cases(options: argparse.Namespace) -> Iterator[BenchSettings]:
    for stage in ("finetune", "align", "distill"):
        for kernels in ("auto", "plain"):
            for vision, language in _LAYERS:
                layers = CheckpointingSection(vision=vision, language=language if stage != "distill" else 0)
                yield BenchSettings(
                    preset=options.preset,
                    stage=stage,
                    ds_config=Path("zero1.json"),
                    tokens=options.tokens,
                    tiles=options.tiles,
                    kernels=kernels,
                    checkpointing=layers,
                )


if __name__ == "__main__":
    sys.exit(main())
