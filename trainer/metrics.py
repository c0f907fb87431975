"""Sums and weights of each step in, exact means over ranks and steps out. Sums stay on the device until a log step."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from data_shards.collate import StepCounts
from trainer.dist import Ranks
from trainer.utilisation import TrainFlops

_COUNTS = ("samples", "questions", "tokens", "label_tokens", "tiles", "unparsed_tags", "fill_tokens", "fill_tiles")


@dataclass(kw_only=True)
class MetricWindow:
    """What happened since the last log step, on this rank.

    Attributes:
        names: every mean metric there can be, the same on all ranks.
        modules: that gradient norms are logged of.
        means: sum and weight of each metric so far.
        steps: number of each step that was applied.
        losses: of each such step the sum of this rank, already divided by the step's global weight.
        flops: of each step, applied or not.
        counts: sums over all steps; names of `_COUNTS`.
        seconds, data_wait: that the steps took, and that they waited for their batches.
        quarantined, skipped: samples left out and steps not applied since the run began, the same on all ranks.
    """

    names: tuple[str, ...]
    modules: tuple[str, ...] = ()
    means: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    flops: list[TrainFlops] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    data_wait: float = 0.0
    quarantined: int = 0
    skipped: int = 0

    def add_loss(self, step: int, loss: torch.Tensor) -> None:
        """Add an applied step's loss, a scalar on the device: this rank's share of the mean."""
        self.steps.append(step)
        self.losses.append(loss)

    def add_means(self, metrics: Mapping[str, tuple[torch.Tensor, torch.Tensor | float]]) -> None:
        """Add a micro batch's sums, scalars on the device, with their weights."""
        for name, (total, weight) in metrics.items():
            assert name in self.names, f"metric {name} was not announced, known: {self.names}"
            pair = torch.stack([total.detach().double(), _like(total, weight)])
            self.means.setdefault(name, []).append(pair)

    def add_counts(self, counts: StepCounts, flops: TrainFlops, *, fill_tokens: float, fill_tiles: float) -> None:
        """Add a step's counts and FLOPs, and how full its packs were (sums over packs, each 0 to 1)."""
        self.flops.append(flops)
        for name, value in {**vars(counts), "fill_tokens": fill_tokens, "fill_tiles": fill_tiles}.items():
            self.counts[name] = self.counts.get(name, 0.0) + value

    def reduce(
        self, ranks: Ranks, *, packs: int, squares: Mapping[str, float], waited: float, memory: float
    ) -> "WindowMeans":
        """Sum over ranks in two collectives, and start anew.

        Args:
            packs: packs of all ranks in the window.
            squares: this rank's share of each module's squared gradient norm in the last step, where it is known.
            waited: seconds of the window in which this rank waited for the others.
            memory: GiB, at most, of this rank.
        """
        pairs = [
            torch.stack(self.means[name]).sum(0).tolist() if name in self.means else [0.0, 0.0] for name in self.names
        ]
        own_work = [0.0] * ranks.world_size
        own_work[ranks.rank] = max(self.seconds - waited, 0.0)
        hardware = [flops.hardware for flops in self.flops]
        parts: dict[str, list[float]] = {
            "pairs": [value for pair in pairs for value in pair],
            "counts": [self.counts.get(name, 0.0) for name in _COUNTS],
            "losses": torch.stack(self.losses).tolist() if self.losses else [],
            "squares": [squares.get(module, 0.0) for module in self.modules],
            "known": [float(module in squares) for module in self.modules],
            "own_work": own_work,
            "useful": [sum(flops.useful for flops in self.flops)],
            "hardware": hardware,
        }
        total = _split(ranks.sum([value for part in parts.values() for value in part]), parts)
        seconds, wait, most_memory, *dearest = ranks.max([self.seconds, self.data_wait, memory, *hardware])
        sums, weights = total["pairs"][::2], total["pairs"][1::2]
        norms = zip(self.modules, total["squares"], total["known"], strict=True)
        window = WindowMeans(
            steps=tuple(self.steps),
            losses=total["losses"],
            means={name: s / w for name, s, w in zip(self.names, sums, weights, strict=True) if w > 0},
            counts=dict(zip(_COUNTS, total["counts"], strict=True)),
            grad_norms={module: square**0.5 for module, square, known in norms if known},
            own_work=total["own_work"],
            flops=TrainFlops(useful=total["useful"][0], hardware=sum(total["hardware"])),
            balance=_balance(dearest, total["hardware"], ranks.world_size),
            num_steps=len(self.flops),
            seconds=seconds,
            data_wait=wait,
            memory=most_memory,
            packs=packs,
            quarantined=self.quarantined,
            skipped=self.skipped,
        )
        self.means, self.steps, self.losses, self.flops, self.counts = {}, [], [], [], {}
        self.seconds = self.data_wait = 0.0
        return window


def _like(total: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    """The weight in float64 beside the sum; a number is filled in there, not copied, for which the host would wait."""
    return weight.double() if isinstance(weight, torch.Tensor) else total.new_full((), weight, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class WindowMeans:
    """A window over all ranks: losses of its steps, exact means, counts, seconds of the slowest rank.

    Attributes:
        steps, losses: number of each applied step, and its mean loss.
        means: of each metric that there was.
        counts: sums over ranks and steps; names of `_COUNTS`.
        grad_norms: of the last step, by module; of those that are trained, and nothing where gradients are on the host.
        own_work: seconds of each rank in which it did not wait for another.
        flops: of all ranks and steps, applied or not.
        num_steps: applied or not.
        seconds, data_wait: of the rank with most of each.
        packs: of all ranks.
        balance: FLOPs of the dearest rank over their mean, averaged over steps; 1 at best.
        memory: GiB of the rank with most.
    """

    steps: Sequence[int]
    losses: Sequence[float]
    means: Mapping[str, float]
    counts: Mapping[str, float]
    grad_norms: Mapping[str, float]
    own_work: Sequence[float]
    flops: TrainFlops
    balance: float
    num_steps: int
    seconds: float
    data_wait: float
    memory: float
    packs: int
    quarantined: int = 0
    skipped: int = 0

    def scalars(self, peak: float | None = None) -> dict[str, float]:
        """Names and values for the loggers; rates are per second over all ranks.

        Args:
            peak: FLOP/s of one rank's device; without it no utilisation is given.
        """
        seconds, packs, ranks = max(self.seconds, 1e-9), max(self.packs, 1), len(self.own_work)
        values = {"loss/total": sum(self.losses) / len(self.losses)} if self.losses else {}
        values |= {f"loss/{name}" if not name.startswith("accuracy") else name: v for name, v in self.means.items()}
        values |= {f"grad_norm/{module}": norm for module, norm in self.grad_norms.items()}
        for name in ("samples", "questions", "tokens", "tiles"):
            values[f"rate/{name}_per_s"] = self.counts[name] / seconds
        values["rate/data_wait"] = self.data_wait / seconds
        values["rate/step_seconds"] = seconds / max(self.num_steps, 1)
        values["rate/useful_tflops"] = self.flops.useful / seconds / 1e12
        values["rate/hardware_tflops"] = self.flops.hardware / seconds / 1e12
        if peak:
            values["utilisation/mfu"] = self.flops.useful / seconds / ranks / peak
            values["utilisation/hardware"] = self.flops.hardware / seconds / ranks / peak
        values["ranks/cost_balance"] = self.balance
        values["ranks/slowest_over_median"] = max(self.own_work) / max(statistics.median(self.own_work), 1e-9)
        values["memory/gib"] = self.memory
        values["data/quarantined"] = float(self.quarantined)
        values["data/skipped_steps"] = float(self.skipped)
        values["data/unparsed_tags"] = self.counts["unparsed_tags"]
        for name in ("fill_tokens", "fill_tiles", "label_tokens"):
            values[f"pack/{name}"] = self.counts[name] / packs
        return values


def _split(values: Sequence[float], like: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """A flat list cut into parts of the lengths of `like`."""
    parts, start = {}, 0
    for name, part in like.items():
        parts[name] = list(values[start : start + len(part)])
        start += len(part)
    return parts


def _balance(dearest: Sequence[float], totals: Sequence[float], world_size: int) -> float:
    shares = [most * world_size / total for most, total in zip(dearest, totals, strict=True) if total > 0]
    return sum(shares) / len(shares) if shares else 1.0
