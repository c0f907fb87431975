"""Sums and weights of each step in, exact means over ranks and steps out. Sums stay on the device until a log step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from data_shards.collate import StepCounts
from trainer.dist import Ranks


@dataclass(kw_only=True)
class MetricWindow:
    """What happened since the last log step, on this rank.

    Attributes:
        names: every mean metric there can be, the same on all ranks.
        means: sum and weight of each metric so far.
        losses: of each step the sum of this rank, already divided by the step's global weight.
        quarantined: samples left out since the run began, the same number on all ranks.
    """

    names: tuple[str, ...]
    means: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    losses: list[torch.Tensor] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    data_wait: float = 0.0
    quarantined: int = 0

    def add_means(self, metrics: Mapping[str, tuple[torch.Tensor, torch.Tensor | float]]) -> None:
        """Add a micro batch's sums with their weights."""
        for name, (total, weight) in metrics.items():
            assert name in self.names, f"metric {name} was not announced, known: {self.names}"
            pair = torch.stack([total.detach().double(), _like(total, weight)])
            self.means.setdefault(name, []).append(pair)

    def add_counts(self, counts: StepCounts, *, fill_tokens: float, fill_tiles: float) -> None:
        """Add a step's counts, and how full its packs were (sums over packs, each 0 to 1)."""
        for name, value in vars(counts).items():
            self.counts[name] = self.counts.get(name, 0.0) + value
        self.counts["fill_tokens"] = self.counts.get("fill_tokens", 0.0) + fill_tokens
        self.counts["fill_tiles"] = self.counts.get("fill_tiles", 0.0) + fill_tiles

    def reduce(self, ranks: Ranks, *, packs: int) -> "WindowMeans":
        """Sum over ranks in one collective, and start anew.

        Args:
            packs: packs of all ranks in the window.
        """
        own = [
            torch.stack(self.means[name]).sum(0).tolist() if name in self.means else [0.0, 0.0] for name in self.names
        ]
        counts = ("samples", "questions", "tokens", "label_tokens", "tiles", "fill_tokens", "fill_tiles")
        losses = torch.stack(self.losses).tolist() if self.losses else []
        flat = [value for pair in own for value in pair] + [self.counts.get(name, 0.0) for name in counts] + losses
        total = ranks.sum(flat)
        pairs, rest = total[: 2 * len(own)], total[2 * len(own) :]
        seconds, wait = ranks.max([self.seconds, self.data_wait])
        window = WindowMeans(
            losses=rest[len(counts) :],
            means={n: pairs[2 * i] / pairs[2 * i + 1] for i, n in enumerate(self.names) if pairs[2 * i + 1] > 0},
            counts=dict(zip(counts, rest, strict=False)),
            seconds=seconds,
            data_wait=wait,
            packs=packs,
            quarantined=self.quarantined,
        )
        self.means, self.losses, self.counts, self.seconds, self.data_wait = {}, [], {}, 0.0, 0.0
        return window


def _like(total: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    """The weight in float64 beside the sum; a number is filled in there, not copied, for which the host would wait."""
    return weight.double() if isinstance(weight, torch.Tensor) else total.new_full((), weight, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class WindowMeans:
    """A window over all ranks: losses of its steps, exact means, counts, seconds of the slowest rank."""

    losses: Sequence[float]
    means: Mapping[str, float]
    counts: Mapping[str, float]
    seconds: float
    data_wait: float
    packs: int
    quarantined: int = 0

    def scalars(self) -> dict[str, float]:
        """Names and values for the loggers; rates are per second over all ranks."""
        seconds = max(self.seconds, 1e-9)
        values = {"loss/total": sum(self.losses) / max(len(self.losses), 1)}
        values |= {f"loss/{name}" if not name.startswith("accuracy") else name: v for name, v in self.means.items()}
        for name in ("samples", "questions", "tokens", "tiles"):
            values[f"rate/{name}_per_s"] = self.counts[name] / seconds
        values["rate/data_wait"] = self.data_wait / seconds
        values["rate/step_seconds"] = seconds / max(len(self.losses), 1)
        values["data/quarantined"] = float(self.quarantined)
        values["pack/fill_tokens"] = self.counts["fill_tokens"] / max(self.packs, 1)
        values["pack/fill_tiles"] = self.counts["fill_tiles"] / max(self.packs, 1)
        values["pack/label_tokens"] = self.counts["label_tokens"] / max(self.packs, 1)
        return values
