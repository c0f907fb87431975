"""What the attention backends share: lengths of a pack in, by each backend's planner a `Plan` out.

Shape suffixes: N tokens of a pack, H query heads, K key-value heads, D head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

BackendName = Literal["flash", "varlen", "flex", "sdpa"]


class AttentionError(ValueError):
    """A backend that cannot do what is asked of it; the message names what was got, what is expected and the fix."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tokens of one prefix and of the segments behind it, in the order of the pack.

    Attributes:
        start: first token of the group.
        prefix: length of its prefix, 0 where there is none.
        segments: lengths of its segments, each at least 1; () where no question follows the prefix.
    """

    start: int
    prefix: int
    segments: tuple[int, ...]

    @property
    def end(self) -> int:
        """The token behind its last."""
        return self.start + self.prefix + sum(self.segments)


class Plan(Protocol):
    """What a backend needs to know of one pack, made once a batch: masks or boundaries, never read back in a layer."""

    def to(self, device: torch.device | str) -> "Plan":
        """The same plan with its tensors on `device`, copied without waiting."""
        ...

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scale: float | None, dropout: float
    ) -> torch.Tensor:
        """Attention of query [1, H, N, D] over key and value [1, K, N, D], H a multiple of K: [1, N, H, D].

        Args:
            scale: factor of the scores; None for 1 / sqrt(D).
            dropout: rate on the attention weights.

        Raises:
            AttentionError: a rate above 0, where the backend has no dropout.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Backend:
    """An attention implementation, as chosen at start.

    Attributes:
        name: which one.
        vision: the name in transformers' attention registry for dense attention over tiles.
        plan: makes the plan of a pack, on the CPU.
        announcement: one line that says what was chosen and why the others were not.
    """

    name: BackendName
    vision: str
    plan: Callable[[Sequence[Group]], Plan]
    announcement: str


def refuse_dropout(dropout: float) -> None:
    """Called by the backends that have no dropout.

    Raises:
        AttentionError: a rate above 0.
    """
    if dropout:
        raise AttentionError(
            f"attention_dropout: got {dropout}, expected 0.0: only the sdpa backend has dropout; set attention_dropout "
            "to 0.0 in the language model's config.json, or choose sdpa"
        )
