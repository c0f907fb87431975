"""YAML values to types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest

from trainer.typed_yaml import ConfigError, apply_overrides, build, nearest, read_yaml


@dataclass(frozen=True, kw_only=True)
class _Inner:
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class _Outer:
    count: int
    kind: Literal["a", "b"] = "a"
    name: str | None = None
    inner: _Inner = _Inner()
    items: tuple[int, ...] = ()
    flag: bool = False
    budgets: Mapping[str, int] | None = None


def _build(value: object) -> tuple[_Outer | None, list[str]]:
    problems: list[str] = []
    return build(_Outer, value, "", problems), problems


def test_nested_values_become_their_types():
    built, problems = _build(
        {"count": 3, "kind": "b", "name": "x", "inner": {"rate": 2}, "items": [1, 2], "flag": True}
    )
    assert problems == []
    assert built == _Outer(count=3, kind="b", name="x", inner=_Inner(rate=2.0), items=(1, 2), flag=True)
    assert isinstance(built.inner.rate, float)


def test_names_with_values_become_a_mapping():
    assert _build({"count": 1, "budgets": {"left": 2, "right": 1}})[0].budgets == {"left": 2, "right": 1}


def test_null_is_taken_where_it_is_allowed():
    assert _build({"count": 1, "name": None})[0] == _Outer(count=1)
    assert _build({"count": None})[1] == ["count: got None, expected a whole number"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "count: missing, expected a whole number"),
        ({"count": True}, "count: got True, expected a whole number"),
        ({"count": 1.5}, "count: got 1.5, expected a whole number"),
        ({"count": 1, "flag": "yes"}, "flag: got 'yes', expected true or false"),
        ({"count": 1, "kind": "c"}, "kind: got 'c', expected one of 'a', 'b'"),
        ({"count": 1, "items": [1, "x"]}, "items.1: got 'x', expected a whole number"),
        ({"count": 1, "budgets": {"left": "x"}}, "budgets.left: got 'x', expected a whole number"),
        ({"count": 1, "budgets": 3}, "budgets: got 3, expected names, each with a whole number"),
        ({"count": 1, "inner": 4}, "inner: got 4, expected a section with rate"),
        ({"count": 1, "inner": {"rat": 1}}, "inner.rat: unknown field; did you mean 'rate'?"),
    ],
)
def test_wrong_value_is_described(value, problem):
    assert _build(value) == (None, [problem])


def test_whole_float_counts_as_a_whole_number():
    assert _build({"count": 2e3})[0] == _Outer(count=2000)


def test_far_off_name_lists_what_is_known():
    assert nearest("zzz", ["alpha", "beta"]) == "expected one of alpha, beta"


def test_exponents_are_numbers_and_dates_or_words_are_not(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text('a: 1e-4\nb: 3E5\nc: "1e-4"\nd: e4\ne: -2.5e+3\n')
    assert read_yaml(path) == {"a": 1e-4, "b": 3e5, "c": "1e-4", "d": "e4", "e": -2500.0}


def test_overrides_leave_the_given_tree_alone():
    tree = {"a": {"b": [1, 2]}}
    assert apply_overrides(tree, ["a.b.1=7", "c.d=x"]) == {"a": {"b": [1, 7]}, "c": {"d": "x"}}
    assert tree == {"a": {"b": [1, 2]}}


def test_python_objects_in_yaml_are_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not YAML"):
        read_yaml(path)
