"""YAML or JSON text in, frozen dataclasses out (and back); every problem of a file comes in one error.

The recipes' own reader is not used: this package imports nothing of the trainer.
"""

import dataclasses
import difflib
import json
import math
import os
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")


class SlurmError(ValueError):
    """Something the user has to change; the message says what, one problem a line."""


def load_yaml(kind: type[T], path: Path, what: str) -> T:
    """A YAML file as a dataclass.

    Args:
        kind: the dataclass.
        path: the file.
        what: the sort of file, for messages.

    Raises:
        SlurmError: no such file, not YAML, unknown or missing fields, values of a wrong type.
    """
    tree = read_yaml(path, what)
    problems: list[str] = []
    value = build(kind, tree, "", problems)
    if problems:
        raise SlurmError("\n".join(f"{path}: {problem}" for problem in problems))
    return value


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        SlurmError: no such file, not YAML, or not a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SlurmError(f"{path}: cannot be read ({error.strerror}); give the path of a {what}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SlurmError(f"{path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise SlurmError(f"{path}: got {type(tree).__name__}, expected the mapping of a {what}")
    return tree


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong with a short text, in one line."""
    known = error.problem if isinstance(error, yaml.MarkedYAMLError) else None
    return known or " ".join(str(error).split())


def build(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Value as `kind`; problems are appended.

    Kinds are dataclasses, plain types, X | None, tuple[X, ...], Mapping[str, str] and Mapping[str, tuple[str, ...]]; in
    mappings anything may stand for a text: numbers are written out, lists and mappings as YAML.
    """
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where, problems)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return build(next(k for k in get_args(kind) if k is not type(None)), value, where, problems)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            problems.append(f"{where}: got {value!r}, expected a list")
            return ()
        return tuple(build(get_args(kind)[0], item, f"{where}.{i}", problems) for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            problems.append(f"{where}: got {value!r}, expected names with values")
            return {}
        return {
            str(name): _build_item(get_args(kind)[1], item, f"{where}.{name}", problems) for name, item in value.items()
        }
    return _build_plain(kind, value, where, problems)


def to_json(value: Any) -> str:
    """A dataclass as JSON text that `from_json` reads back."""
    return json.dumps(dataclasses.asdict(value), indent=1, default=str) + "\n"


def from_json(kind: type[T], path: Path) -> T:
    """The dataclass that `to_json` wrote.

    Raises:
        SlurmError: the file is missing or is something else.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SlurmError(f"{path}: cannot be read: {error}") from error
    problems: list[str] = []
    value = build(kind, tree, "", problems)
    if problems:
        raise SlurmError("\n".join(f"{path}: {problem}" for problem in problems))
    return value


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name, sync and rename it: it is whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint with the nearest known name, or the list of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"


def _build_dataclass(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(value, Mapping):
        problems.append(f"{where}: got {value!r}, expected a section with {', '.join(names)}")
        return None
    hints = get_type_hints(kind)
    before = len(problems)
    prefix = f"{where}." if where else ""
    fields = {}
    for name, item in value.items():
        if name not in hints:
            problems.append(f"{prefix}{name}: unknown field; {nearest(str(name), names)}")
        else:
            fields[name] = build(hints[name], item, prefix + name, problems)
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in value:
            problems.append(f"{prefix}{field.name}: missing")
    if len(problems) > before:
        return None
    try:
        return kind(**fields)
    except ValueError as error:
        problems += [f"{prefix}{line}" for line in str(error).splitlines()]
        return None


_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text (put it into quotes)",
    Path: "a path",
}


def _build_plain(kind: type, value: Any, where: str, problems: list[str]) -> Any:
    good = {
        int: type(value) is int,
        float: type(value) in (int, float),
        bool: type(value) is bool,
        str: isinstance(value, str),
        Path: isinstance(value, str | Path) and str(value) != "",
    }[kind]
    if good:
        return kind(value)
    problems.append(f"{where}: got {value!r}, expected {_EXPECTED[kind]}")
    return None


def _build_item(kind: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Of a mapping: a text or a list of texts."""
    if kind is str:
        return _text(value)
    if not isinstance(value, list | tuple):
        problems.append(f"{where}: got {value!r}, expected a list")
        return ()
    return tuple(map(_text, value))


def _text(value: Any) -> str:
    if isinstance(value, list | dict):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).strip()
    if value is None:
        return "null"
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
