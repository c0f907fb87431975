"""Logits in, drawn tokens out: temperature and nucleus sampling in which every question has a random stream of its own.

So an answer does not depend on which other questions share its batch, on the number of ranks or on a restart.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


class SamplingError(ValueError):
    """Sampling settings that make no sense; the message names the option, got and expected."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: divides the logits; above 0.
        top_p: share of probability of the most likely tokens that may be drawn (Holtzman et al. 2020), above 0, at
            most 1.
        seed: of all questions' streams.
    """

    temperature: float
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SamplingError(f"--temperature: got {self.temperature}, expected a number above 0, or 0 for greedy")
        if not 0 < self.top_p <= 1:
            raise SamplingError(f"--top-p: got {self.top_p}, expected a number above 0, at most 1")
        if self.seed < 0:
            raise SamplingError(f"--seed: got {self.seed}, expected at least 0")


class SampledChoice:
    """Draws the next tokens of a batch; to be used for one batch, as `models.decoding.Choose`."""

    def __init__(self, sampling: Sampling, names: Sequence[str]) -> None:
        """`names`: what identifies each question of the batch, such as `<frame key>/<question number>`."""
        self._sampling = sampling
        self._streams = [_stream(sampling.seed, name) for name in names]

    def __call__(self, logits_RV: torch.Tensor, question_R: torch.Tensor) -> torch.Tensor:
        """Tokens [R] of rows with logits [R, V]; one number is drawn from each row's stream."""
        draws = torch.tensor([self._streams[question].random() for question in question_R.tolist()])
        return draw_tokens(
            logits_RV,
            draws.to(logits_RV.device, torch.float32),
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
        )


def draw_tokens(
    logits_RV: torch.Tensor, draws_R: torch.Tensor, *, temperature: float, top_p: float = 1.0
) -> torch.Tensor:
    """Inverse of the cumulative distribution, most likely tokens first.

    Args:
        logits_RV: any float.
        draws_R: uniform numbers in [0, 1).
        temperature: above 0.
        top_p: a token may be drawn while the more likely ones together have less than this probability.

    Returns:
        Tokens [R], int64.
    """
    precise = torch.promote_types(logits_RV.dtype, torch.float32)
    probabilities, tokens = (logits_RV.to(precise) / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    sums = probabilities.cumsum(dim=-1)
    allowed = (sums - probabilities < top_p) & (probabilities > 0)
    allowed[:, 0] = True
    last = allowed.sum(dim=-1) - 1
    total = sums.gather(1, last[:, None])
    place = (sums <= draws_R[:, None].to(precise) * total).sum(dim=-1)
    return tokens.gather(1, torch.minimum(place, last)[:, None])[:, 0]


def _stream(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
