"""Held-out packs and a model in training in; its exact mean losses over them, by dataset and question type, out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from data_shards.loader import FrameSource, PackLoader
from data_shards.plan import PackStream
from trainer.dist import Ranks
from trainer.guards import explained_memory
from trainer.recipe import Recipe
from trainer.stages.base import Forward, Stage
from trainer.stop_check import StopCheck

_SECOND = "second"
"""The part of a loss that has a weight of its own; the loss is the sum of both means."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """One dataset's packs, the same in the same order at every validation.

    Attributes:
        packs: number of them that are looked at.
    """

    source: FrameSource
    stream: PackStream
    packs: int


def num_packs(stream: PackStream, max_packs: int) -> int:
    """Packs of an epoch, or `max_packs` where that is less and not 0."""
    count = 0
    for section in range(stream.sections):
        count += len(stream.section(section))
        if max_packs and count >= max_packs:
            return max_packs
    return count


def held_out_losses(
    datasets: Sequence[HeldOut],
    stage: Stage,
    forward: Forward,
    ranks: Ranks,
    device: torch.device,
    beat: Callable[[str], None],
    stop: StopCheck,
) -> dict[str, float]:
    """Losses in evaluation mode, without gradient; to be called on all ranks.

    The ranks share the packs and call the model equally often: where the last round has fewer packs than ranks, some
    run a pack that does not count.

    Args:
        forward: the engine.
        beat: takes what is being done, once a pack.
        stop: asked once a pack.

    Returns:
        `validation/loss`, `validation/<metric>` for each metric of the stage, and the same for each dataset as
        `validation/<dataset>/...`, as exact means over all packs; the number of frames that could not be read, if any.

    Raises:
        BrokenOff: a rank was asked to stop; the model is left in evaluation mode.
    """
    names = ("loss", _SECOND, *stage.metric_names())
    stage.model.eval()
    with torch.no_grad():
        tables = [_sums(names, dataset, stage, forward, ranks, device, beat, stop) for dataset in datasets]
    stage.train_mode()
    total = ranks.sum(torch.cat([table.flatten() for table in tables]).tolist())
    shape = (len(datasets), len(names) + 1, 2)
    return _values(names, [d.source.name for d in datasets], torch.tensor(total, dtype=torch.float64).view(shape))


def _sums(
    names: Sequence[str],
    dataset: HeldOut,
    stage: Stage,
    forward: Forward,
    ranks: Ranks,
    device: torch.device,
    beat: Callable[[str], None],
    stop: StopCheck,
) -> torch.Tensor:
    """Sum and weight of each metric over this rank's packs, [names + 1, 2]; last the frames that could not be read."""
    table = torch.zeros(len(names) + 1, 2, dtype=torch.float64, device=device)
    rounds = -(-dataset.packs // ranks.world_size)
    for number, (batch,) in zip(range(rounds), _loader(dataset, stage.recipe, stage, ranks), strict=False):
        beat(f"validation on {dataset.source.name}, pack {number + 1} of {rounds}")
        stop.together()
        with explained_memory(stage.recipe.data, batch):
            out = stage.loss(forward, batch, device)
        if number * ranks.world_size + ranks.rank >= dataset.packs:
            continue
        table[-1, 0] += len(batch.meta.bad)
        weight = stage.weight(batch)
        sums = {"loss": (out.total, weight), **out.metrics} if weight else {}
        second = stage.second_weight(batch)
        if second and out.second is not None:
            sums[_SECOND] = (out.second, second)
        for row, name in enumerate(names):
            if name in sums:
                table[row] += torch.stack([torch.as_tensor(value, device=device).double() for value in sums[name]])
    return table


def _loader(dataset: HeldOut, recipe: Recipe, stage: Stage, ranks: Ranks) -> PackLoader:
    data = recipe.data
    return PackLoader(
        [dataset.source],
        dataset.stream,
        layout=data.view,
        text=stage.text,
        rank=ranks.rank,
        world_size=ranks.world_size,
        workers=data.workers,
        prefetch=data.prefetch,
        pin_memory=ranks.device().type == "cuda",
        max_tiles=data.max_tiles,
    )


def _values(names: Sequence[str], datasets: Sequence[str], sums: torch.Tensor) -> dict[str, float]:
    """Means by name of the sums and weights [datasets, names + 1, 2]."""
    values: dict[str, float] = {}
    prefixes = ["validation", *(f"validation/{dataset}" for dataset in datasets)]
    for prefix, table in zip(prefixes, [sums.sum(dim=0), *sums], strict=True):
        pairs = zip(names, table[:-1].tolist(), strict=True)
        means = {name: total / weight for name, (total, weight) in pairs if weight > 0 and name not in datasets}
        if _SECOND in means:
            means["loss"] = means.get("loss", 0.0) + means.pop(_SECOND)
        values |= {f"{prefix}/{name}": mean for name, mean in means.items()}
        if table[-1, 0] > 0:
            values[f"{prefix}/left_out"] = float(table[-1, 0])
    return values
