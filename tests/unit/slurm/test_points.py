"""Axes to points, and values into texts."""

import pytest

from slurm.points import fill, make_points, resolve_values
from slurm.typed import SlurmError


def test_names_of_an_axis_go_side_by_side_and_axes_are_multiplied():
    points = make_points([{"teacher": ("small", "large"), "width": ("64", "160")}, {"seed": ("0", "1", "2")}])
    assert [(point.values["teacher"], point.values["width"], point.values["seed"]) for point in points] == [
        ("small", "64", "0"),
        ("small", "64", "1"),
        ("small", "64", "2"),
        ("large", "160", "0"),
        ("large", "160", "1"),
        ("large", "160", "2"),
    ]
    assert points[3].labels == {"teacher": "large", "seed": "0"}
    assert points[3].name == "003-teacher=large,seed=0"
    assert make_points([]) == []


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ([{"a": ("1", "2"), "b": ("1",)}], "points.0: names have different numbers of values: a 2, b 1"),
        ([{"a": ()}], "points.0: got no values"),
        ([{}], "points.0: got no values"),
        ([{"a": ("1",)}, {"a": ("2",)}], "points.1: the name 'a' occurs twice"),
        ([{"point": ("1",)}], "the name 'point' is taken"),
    ],
)
def test_axes_that_make_no_points_are_refused(axes, said):
    with pytest.raises(SlurmError) as caught:
        make_points(axes)
    assert said in str(caught.value)


def test_only_braces_around_a_known_name_are_filled():
    text = "data.view={tile_size: 112} path={root}/{point} ${shell} {{root}}"
    assert fill(text, {"root": "r", "point": "p"}) == "data.view={tile_size: 112} path=r/p ${shell} {r}"
    with pytest.raises(SlurmError, match="{rot}: has no value; did you mean 'root'"):
        fill("{rot}/x", {"root": "r"})


def test_a_value_may_hold_others_and_the_command_line_comes_first():
    values = {"data": "{root}/data", "root": "runs", "steps": "5"}
    assert resolve_values(values, []) == {"root": "runs", "data": "runs/data", "steps": "5"}
    assert resolve_values(values, ["root=/r", "steps=a=b"]) == {"root": "/r", "data": "/r/data", "steps": "a=b"}
    with pytest.raises(SlurmError, match="{other}: has no value"):
        resolve_values({"a": "{other}"}, [])
    with pytest.raises(SlurmError, match="values: a, b hold each other"):
        resolve_values({"a": "{b}", "b": "{a}", "c": "1"}, [])
    with pytest.raises(SlurmError, match="got 'x', which is not among the values"):
        resolve_values({}, ["x=1"])
