"""A PackStream and fractions in; the stream whose datasets have these fractions of the tokens in its packs out."""

from collections.abc import Sequence

import numpy as np

from data_shards.mixture import PlanError
from data_shards.plan import PackStream

ROUNDS = 4
"""How often weights are corrected: how many questions share a prefix depends on the weights a little."""

LEAST_SAMPLES = 16
"""Samples of a dataset that a section has to show for its tokens a sample to be taken from there."""

GENERAL_SHARE = 0.2
"""General to driving as 1 to 4: the best of the ratios that InternVL's authors tried for driving."""


def with_fractions(stream: PackStream, fractions: Sequence[float]) -> PackStream:
    """The same datasets with weights of at most 1 that give each its fraction; the scarcest is shown whole an epoch.

    Counted are tokens as packs show them, a prefix for each visit; tiles in a mixture without questions.

    Args:
        fractions: positive, one a dataset; only their ratios count.

    Raises:
        PlanError: a fraction that is not positive, or a dataset of which nothing can be shown.
    """
    _check(fractions)
    if not stream.num_samples.all():
        empty = [f"dataset {d}" for d in np.flatnonzero(stream.num_samples == 0)]
        raise PlanError(
            f"{', '.join(empty)}: got nothing that can be shown, expected some for its fraction; drop it or raise the "
            "limits of a pack"
        )
    stream = stream.with_weights([1.0] * len(fractions))
    each = stream.typical()
    for _ in range(ROUNDS):
        section = stream.section(0)
        is_known = section.samples >= np.minimum(LEAST_SAMPLES, stream.num_samples)
        each = np.where(is_known, section.shown / np.maximum(section.samples, 1), each)
        weights = np.asarray(fractions) / (each * stream.num_samples)
        stream = stream.with_weights((weights / weights.max()).tolist())
    return stream


def default_fractions(stream: PackStream, is_general: Sequence[bool]) -> list[float] | None:
    """Fractions for a mixture that says nothing of them: `GENERAL_SHARE` of the tokens from general datasets, the rest
    from driving ones, and the datasets of a kind equally often; None where there is one kind alone."""
    general = np.asarray(is_general)
    if general.all() or not general.any():
        return None
    tokens = stream.typical() * np.maximum(stream.num_samples, 1)
    of_kind = np.where(general, GENERAL_SHARE, 1 - GENERAL_SHARE)
    return (of_kind * tokens / np.where(general, tokens[general].sum(), tokens[~general].sum())).tolist()


def shares(stream: PackStream) -> list[float]:
    """Each dataset's share of the tokens (or tiles) of the first section of a plan."""
    shown = stream.section(0).shown
    return (shown / max(shown.sum(), 1.0)).tolist()


def _check(fractions: Sequence[float]) -> None:
    bad = [f"fraction of dataset {d}: got {f}" for d, f in enumerate(fractions) if not 0 < f < float("inf")]
    if bad:
        raise PlanError("; ".join(bad) + "; expected positive numbers")
