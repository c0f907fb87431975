"""The bootstrap by scene: against known spreads, the same draws for both sides of a difference, none for one scene."""

import numpy as np
import pytest

from trainer.evaluate.intervals import Resampling, comparison, draw_scenes, nested, score_intervals, sum_by_scene


def mean(sums):
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"mean": np.asarray(sums["x"]) / np.asarray(sums["n"])}


def scenes_of(values, size=5):
    names = [f"s{i // size}" for i in range(len(values))]
    return sum_by_scene(names, {"x": values, "n": np.ones(len(values))})


def test_sums_are_by_scene_whatever_the_order():
    sums = sum_by_scene(["b", "a", "b"], {"x": [1.0, 2.0, 4.0]})
    assert sums.values.tolist() == [[2.0], [5.0]]
    assert sums.total()["x"] == 7.0
    assert sum_by_scene(["a", "a\0"], {"x": [1.0, 2.0]}).values.tolist() == [[1.0], [2.0]]


def test_the_interval_has_the_width_of_the_normal_approximation():
    values = np.repeat(np.random.default_rng(3).normal(size=400), 5)  # alike within a scene: 400 values, not 2000
    low, high = score_intervals(scenes_of(values), mean, draw_scenes(400, resamples=2000, seed=0))["mean"]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_the_same_seed_gives_the_same_draws():
    assert (draw_scenes(9, resamples=3, seed=5) == draw_scenes(9, resamples=3, seed=5)).all()
    assert (draw_scenes(9, resamples=3, seed=5) != draw_scenes(9, resamples=3, seed=6)).any()
    assert (draw_scenes(9, resamples=3, seed=5).sum(axis=1) == 9).all()


def test_a_constant_gain_has_an_interval_without_width():
    values = np.random.default_rng(1).normal(size=50)
    row = comparison(scenes_of(values), scenes_of(values + 0.25), mean, Resampling())["scores"]["mean"]
    assert row["difference"] == pytest.approx(0.25)
    assert row["interval"] == pytest.approx([0.25, 0.25])


def test_one_scene_or_nothing_to_score_has_no_interval():
    counts = draw_scenes(1, resamples=10, seed=0)
    assert score_intervals(scenes_of([1.0, 2.0]), mean, counts) == {"mean": None}
    empty = sum_by_scene(["a", "b"], {"x": [0.0, 0.0], "n": [0.0, 0.0]})
    assert score_intervals(empty, mean, draw_scenes(2, resamples=10, seed=0)) == {"mean": None}


def test_what_rests_on_one_scene_of_many_has_no_interval():
    few = sum_by_scene(["a", "b", "c"], {"x": [0.0, 5.0, 0.0], "n": [0.0, 2.0, 0.0]})
    assert score_intervals(few, mean, draw_scenes(3, resamples=50, seed=0)) == {"mean": None}
    row = comparison(few, few, mean, Resampling(resamples=50))["scores"]["mean"]
    assert (row["after"], row["interval"]) == (2.5, None)
    two = sum_by_scene(["a", "b", "c"], {"x": [1.0, 5.0, 0.0], "n": [1.0, 2.0, 0.0]})
    assert score_intervals(two, mean, draw_scenes(3, resamples=50, seed=0))["mean"] == [1.0, 2.5]


def test_names_with_a_dot_are_nested():
    assert nested({"a": 1, "b.c": 2, "b.d": 3}) == {"a": 1, "b": {"c": 2, "d": 3}}
