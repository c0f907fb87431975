"""Values of questions in, bootstrap intervals by scene out: of scores, and of differences between two predictions.

Questions of one scene are not independent, so whole scenes are drawn, with replacement. Every score is a function of
sums over questions; a resample is a weighted sum of the scenes' sums and costs one matrix product for all of them.
CIDEr-D's document frequencies stay those of the whole corpus.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, Floats]
Compute = Callable[[Columns], Columns]
"""Sums of columns to scores, both [...]; NaN where a score has nothing to be computed from."""

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals are drawn."""

    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SceneSums:
    """Sums over the questions of each of S scenes: names of columns, values [S, columns]."""

    names: tuple[str, ...]
    values: Floats

    def total(self, counts: Floats | None = None) -> dict[str, Floats]:
        """Sums over scenes by column: scalars, or [R] for R resamples with `counts` [R, S]."""
        sums = self.values.sum(axis=0) if counts is None else counts @ self.values
        return {name: sums[..., place] for place, name in enumerate(self.names)}


def sum_by_scene(scenes: Sequence[str], columns: Mapping[str, npt.ArrayLike]) -> SceneSums:
    """Sum each column [Q] over the questions of one scene; `scenes` names that of each question."""
    number = {name: place for place, name in enumerate(sorted(set(scenes)))}
    place = np.fromiter((number[scene] for scene in scenes), np.int64, len(scenes))
    sums = [np.bincount(place, weights=np.asarray(column, float), minlength=len(number)) for column in columns.values()]
    return SceneSums(names=tuple(columns), values=np.stack(sums, axis=1).astype(float))


def draw_scenes(num_scenes: int, *, resamples: int, seed: int) -> Floats:
    """How often each scene is drawn in each resample, [resamples, num_scenes]."""
    rng = np.random.default_rng(seed)
    if num_scenes == 0:
        return np.zeros((resamples, 0))
    return rng.multinomial(num_scenes, np.full(num_scenes, 1 / num_scenes), size=resamples).astype(float)


def score_intervals(sums: SceneSums, compute: Compute, counts: Floats) -> dict[str, list[float] | None]:
    """[low, high] of each score.

    None with fewer than two scenes, where the score cannot be computed, and where one scene has all that it or a part
    of it is computed from: every resample would say the same.
    """
    return _percentiles(compute(sums.total(counts)), counts, _rest_on_one_scene(sums, compute))


def comparison(before: SceneSums, after: SceneSums, compute: Compute, resampling: Resampling) -> dict[str, Any]:
    """Two predictions for the same questions of the same scenes.

    Returns:
        `scenes`, `level`, and in `scores` {before, after, difference, interval} of each score that both have; the
        interval is of the difference, both over the same draws of scenes.
    """
    counts = draw_scenes(len(before.values), resamples=resampling.resamples, seed=resampling.seed)
    first, second = compute(before.total(counts)), compute(after.total(counts))
    alone = _rest_on_one_scene(before, compute) | _rest_on_one_scene(after, compute)
    intervals = _percentiles({name: second[name] - first[name] for name in first}, counts, alone)
    old, new = compute(before.total()), compute(after.total())
    rows = {
        name: {
            "before": float(old[name]),
            "after": float(new[name]),
            "difference": float(new[name] - old[name]),
            "interval": intervals[name],
        }
        for name in old
        if np.isfinite(old[name]) and np.isfinite(new[name])
    }
    return {"scenes": len(before.values), "level": LEVEL, "scores": rows}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": v} to {"a": {"b": v}}, one level."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        if inner:
            result.setdefault(outer, {})[inner] = value
        else:
            result[outer] = value
    return result


def _rest_on_one_scene(sums: SceneSums, compute: Compute) -> set[str]:
    """Scores that are nothing once some scene is left out."""
    others = sums.values.sum(axis=0) - sums.values
    left = compute({name: others[:, place] for place, name in enumerate(sums.names)})
    return {name for name, values in left.items() if not np.isfinite(values).all()}


def _percentiles(scores: Columns, counts: Floats, alone: Collection[str]) -> dict[str, list[float] | None]:
    shares = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    result: dict[str, list[float] | None] = {}
    for name, drawn in scores.items():
        finite = np.asarray(drawn)[np.isfinite(drawn)]
        enough = counts.shape[1] >= 2 and len(finite) > 0 and name not in alone
        result[name] = [float(end) for end in np.percentile(finite, shares)] if enough else None
    return result
