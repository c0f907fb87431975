"""Means over held-out packs, by dataset."""

import pytest
import torch

from trainer.validation import _values


def test_means_are_exact_over_all_datasets_and_the_second_part_adds_up():
    names = ("loss", "second", "features", "unseen")
    sums = torch.tensor(
        [
            [[6.0, 2.0], [5.0, 10.0], [4.0, 2.0], [9.0, 9.0], [1.0, 0.0]],
            [[2.0, 6.0], [0.0, 0.0], [0.0, 0.0], [9.0, 9.0], [0.0, 0.0]],
        ],
        dtype=torch.float64,
    )
    assert _values(names, ["unseen", "other"], sums) == pytest.approx(
        {
            "validation/loss": 8 / 8 + 5 / 10,
            "validation/features": 2.0,
            "validation/left_out": 1.0,
            "validation/unseen/loss": 3.5,
            "validation/unseen/features": 2.0,
            "validation/unseen/left_out": 1.0,
            "validation/other/loss": 2 / 6,
        }
    )
