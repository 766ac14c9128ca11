"""What users write or share as JSON and YAML, held against the type that it should have."""

from __future__ import annotations

import os
import stat
import types
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

# What reading a file as JSON or YAML raises: numbers too long for an int, brackets too deep, ...
UNREADABLE = (OSError, ValueError, TypeError, RecursionError)


def regular(path: str | Path) -> Path:
    """The path of a regular file. Raises OSError for others: a pipe waits, a device never ends."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
    return Path(path)


def text_of(path: str | Path) -> str:
    """The text of a regular file in UTF-8. Raises one of `UNREADABLE`."""
    return regular(path).read_text(encoding="utf-8")


def mismatch(value: Any, kind: Any, place: str = "it") -> str | None:
    """The first way in which a value is not of a type, in words; None where it is.

    `kind` is a TypedDict (further keys are let pass), `dict[str, T]`, `list[T]`, a union, a Literal
    or a class. Integers pass for floats, booleans for nothing but booleans, and integers beyond the
    floats for nothing: they end in an OverflowError wherever one calculates or prints.
    """
    return next(_mismatches(value, kind, place), None)


def _mismatches(value: Any, kind: Any, place: str) -> Iterator[str]:
    origin = get_origin(kind)
    if kind is Any:
        return
    if origin in (Union, types.UnionType):
        wrong = [mismatch(value, one, place) for one in get_args(kind)]
        if None not in wrong:
            outer = f"{place} is {_short(value)} and not "
            within = (one for one in wrong if one and not one.startswith(outer))
            yield next(within, outer + _name(kind))
    elif origin is Literal:
        if value not in get_args(kind):
            yield f"{place} is {_short(value)} and not {_name(kind)}"
    elif not _is(value, origin or (dict if is_typeddict(kind) else kind)):
        yield f"{place} is {_short(value)} and not {_name(kind)}"
    elif is_typeddict(kind):
        yield from _fields(value, kind, place)
    elif origin is dict:
        of_key, of_value = get_args(kind)
        if _sound(value, of_key) and _sound(value.values(), of_value):
            return
        for key, item in value.items():
            yield from _mismatches(key, of_key, f"a key of {place}")
            yield from _mismatches(item, of_value, _inner(place, key))
    elif origin is list:
        (inner,) = get_args(kind)
        if _sound(value, inner):
            return
        for index, item in enumerate(value):
            yield from _mismatches(item, inner, f"{place}[{index}]")


def _sound(items: Collection[Any], kind: Any) -> bool:
    """Whether all are plainly of a class, found fast: traces have tokens by the million."""
    if set(map(type, items)) != {kind}:
        return False
    return kind is not int or max(max(items), -min(items)).bit_length() <= 63


def _fields(value: Mapping[Any, Any], kind: Any, place: str) -> Iterator[str]:
    absent = sorted(kind.__required_keys__ - value.keys())
    if absent:
        yield f"{place} lacks {', '.join(absent)}"
    for name, inner in _hints(kind).items():
        if name in value and (type(value[name]) is not inner or inner is int):
            yield from _mismatches(value[name], inner, _inner(place, name))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and value.bit_length() > 1023:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _inner(place: str, key: Any) -> str:
    return str(key) if place == "it" else f"{place}.{key}"


def _name(kind: Any) -> str:
    """A type in words, as `a number or null`."""
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_name, get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if is_typeddict(kind):
        return "a mapping"
    return _NAMES[get_origin(kind) or kind]


_NAMES = {
    str: "a text", int: "an integer", float: "a number", bool: "true or false",
    type(None): "null", dict: "a mapping", list: "a list",
}  # fmt: skip


def _short(value: Any) -> str:
    """A value in few characters, however large or deep it is."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge integer"
    return repr(value if not isinstance(value, str) else value[:40])
