"""YAML text and dotted overrides in, frozen dataclasses out; all problems of a file come in one error."""

import dataclasses
import difflib
import re
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml


class ConfigError(ValueError):
    """A recipe or DeepSpeed configuration that cannot be used; one line a problem, each naming file and field."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        ConfigError: no such file, text that does not parse, or something else than a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a recipe") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: got {type(content).__name__}, expected a mapping of sections")
    return content


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with `a.b=value` settings laid over it; values are read as YAML.

    Raises:
        ConfigError: an override without `=` or name, or one that goes below a plain value.
    """
    merged = _copy(tree)
    problems: list[str] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not all(name.split(".")):
            problems.append(f"command line: got {override!r}, expected section.field=value")
            continue
        try:
            _set(merged, name.split("."), yaml.load(text, Loader=_Loader))
        except (yaml.YAMLError, LookupError, TypeError, ValueError) as error:
            problems.append(f"command line: {override!r} cannot be applied: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return merged


def build(kind: type, value: Any, where: str, problems: list[str]) -> Any:
    """Value as `kind` (dataclass, plain type, Optional, Literal, tuple[X, ...]); problems are appended, not raised.

    Args:
        where: dotted name of the field, for messages.

    Returns:
        the typed value, or None where a problem was found.
    """
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where, problems)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _build_union(kind, value, where, problems)
    if origin is Literal:
        if value in get_args(kind):
            return value
        problems.append(f"{where}: got {value!r}, expected one of {', '.join(map(repr, get_args(kind)))}")
        return None
    if origin is tuple:
        return _build_tuple(kind, value, where, problems)
    if origin is Mapping:
        return _build_mapping(kind, value, where, problems)
    return _build_plain(kind, value, where, problems)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint with the nearest known name, or the list of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"


_PLAIN = (int, float, bool, str, Path)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-4` is a number, as in YAML 1.2, and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} occurs twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree


def _set(tree: Any, names: list[str], value: Any) -> None:
    for name in names[:-1]:
        if isinstance(tree, list):
            tree = tree[int(name)]
        elif isinstance(tree, dict):
            tree[name] = {} if tree.get(name) is None else tree[name]
            tree = tree[name]
        else:
            raise TypeError(f"{name!r} lies below a plain value")
    if isinstance(tree, list):
        tree[int(names[-1])] = value
    elif isinstance(tree, dict):
        tree[names[-1]] = value
    else:
        raise TypeError(f"{names[-1]!r} lies below a plain value")


def _build_dataclass(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        spread = getattr(kind, "from_number", None)
        if spread is not None and _is_number(value):
            return spread(float(value))
        problems.append(f"{where}: got {value!r}, expected a section with {', '.join(_names(kind))}")
        return None
    hints = get_type_hints(kind)
    before = len(problems)
    prefix = f"{where}." if where else ""
    fields = {}
    for name, item in value.items():
        if name not in hints:
            problems.append(f"{prefix}{name}: unknown field; {nearest(str(name), _names(kind))}")
        else:
            fields[name] = build(hints[name], item, prefix + name, problems)
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in value:
            problems.append(f"{prefix}{field.name}: missing, expected {_describe(hints[field.name])}")
    if len(problems) > before:
        return None
    try:
        return kind(**fields)
    except ValueError as error:
        problems.append(f"{where}: {error}")
        return None


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _build_union(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    options = [option for option in get_args(kind) if option is not type(None)]
    if value is None and len(options) < len(get_args(kind)):
        return None
    for option in options[:-1]:
        attempt: list[str] = []
        built = build(option, value, where, attempt)
        if not attempt:
            return built
    last: list[str] = []
    built = build(options[-1], value, where, last)
    if last and all(option in _PLAIN or get_origin(option) is Literal for option in options):
        last = [f"{where}: got {value!r}, expected {_describe(kind)}"]
    problems += last
    return built


def _build_tuple(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    args = get_args(kind)
    if not isinstance(value, list | tuple) or (args[-1] is not Ellipsis and len(value) != len(args)):
        problems.append(f"{where}: got {value!r}, expected {_describe(kind)}")
        return None
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    return tuple(build(k, item, f"{where}.{i}", problems) for i, (k, item) in enumerate(zip(kinds, value, strict=True)))


def _build_mapping(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{where}: got {value!r}, expected {_describe(kind)}")
        return None
    return {str(name): build(get_args(kind)[1], item, f"{where}.{name}", problems) for name, item in value.items()}


def _build_plain(kind: type, value: Any, where: str, problems: list[str]) -> Any:
    good = {
        int: type(value) is int,
        float: _is_number(value),
        bool: type(value) is bool,
        str: isinstance(value, str),
        Path: isinstance(value, str) and value != "",
    }[kind]
    if good:
        return kind(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    problems.append(f"{where}: got {value!r}, expected {_describe(kind)}")
    return None


def _is_number(value: Any) -> bool:
    """A number, but for infinity and what YAML calls `.nan`."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _describe(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    if kind in names:
        return names[kind]
    if dataclasses.is_dataclass(kind):
        return f"a section with {', '.join(_names(kind))}"
    if get_origin(kind) is tuple:
        args = get_args(kind)
        return f"a list of {_describe(args[0])}" if args[-1] is Ellipsis else f"a list of {len(args)} values"
    if get_origin(kind) is Mapping:
        return f"names, each with {_describe(get_args(kind)[1])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return " or ".join(_describe(k) for k in get_args(kind) if k is not type(None))
