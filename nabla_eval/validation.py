"""Values held against their types by msgspec, with messages in plain words; JSON from files."""

from __future__ import annotations

import os
import re
import stat
import types
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import msgspec
from msgspec import Meta

LARGEST = 1.7976931348623157e308  # the greatest float
Finite: TypeAlias = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
NotNegative: TypeAlias = Annotated[float, Meta(ge=0, le=LARGEST)]
Positive: TypeAlias = Annotated[float, Meta(gt=0, le=LARGEST)]
# A gradient multiplied by one of these, divided by another and then squared stays in float32.
LEAST, MOST = 1e-9, 1e9
Scale: TypeAlias = Annotated[float, Meta(ge=LEAST, le=MOST)]  # something is divided by it
Factor: TypeAlias = Annotated[float, Meta(ge=0, le=MOST)]
Weight: TypeAlias = Annotated[float, Meta(ge=-MOST, le=MOST)]
Probability: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
Share: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Index: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]

# What reading a file as JSON or YAML raises: numbers too long for an int, brackets too deep, ...
UNREADABLE = (OSError, ValueError, TypeError, RecursionError)


def regular(path: str | Path) -> Path:
    """Return the path of a regular file. Raises OSError for others: a pipe would wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
    return Path(path)


def text_of(path: str | Path) -> str:
    """Return the text of a regular file in UTF-8. Raises one of `UNREADABLE`."""
    return regular(path).read_text(encoding="utf-8")


def mismatch(value: Any, kind: Any, place: str = "it") -> str | None:
    """Say where a value of JSON or YAML first differs from a type; None where it does not.

    Unknown keys of TypedDicts pass. Integers pass for floats, booleans for nothing but booleans,
    and integers beyond the floats for nothing: they overflow wherever one calculates or prints.
    """
    try:
        if _has_huge(value):  # which releases of msgspec before 0.22 end in a SystemError at
            return f"{place} holds a huge integer"
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return in_words(error, place, value)
    except (RecursionError, UnicodeEncodeError) as error:  # lone surrogates are no text
        return f"{place} cannot be read ({error})"
    return None


_MESSAGE = re.compile(r"(.*?)(?: - at (`key` in )?`\$(.*)`)?", re.DOTALL)
_WORDS = {
    "int": "an integer", "float": "a number", "str": "a string", "bool": "true or false",
    "null": "null", "array": "a list", "object": "a mapping",
}  # fmt: skip


def in_words(error: msgspec.ValidationError, place: str = "it", value: Any = msgspec.UNSET) -> str:
    """Rewrite msgspec's message: `tasks must be a list, a string or null, got 3`.

    `value` is what was validated, of which the part that is wrong is shown.
    """
    found = _MESSAGE.fullmatch(str(error))
    assert found is not None
    text, key, path = found[1], found[2], found[3] or ""
    name = path.removeprefix(".") if place == "it" and path.startswith(".") else place + path
    name = f"a key of {name}" if key else name
    if missing := re.search(r"missing required field `(.*)`", text):
        return f"{name} lacks {missing[1]}"
    if refused := re.fullmatch(r"Invalid enum value (.*)", text, re.DOTALL):
        return f"{name} cannot be {refused[1][:40]}"
    if expected := re.fullmatch(r"Expected `([^`]+)`(.*?)(?:, got `(.+)`)?", text):
        words = _joined([_WORDS.get(word, word) for word in expected[1].split(" | ")])
        got = _WORDS.get(expected[3], expected[3])
        if value is not msgspec.UNSET and not key:
            got = _part(value, path) or got
        return f"{name} must be {words}{expected[2]}{f', got {got}' if got else ''}"
    return f"{name}: {text[0].lower()}{text[1:100]}"


def _part(value: Any, path: str) -> str | None:
    """Show what is at a path of msgspec's; None where the path does not say."""
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        try:
            value = value[key] if key else value[int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return shown(value)


def shown(value: Any) -> str:
    """Show a value in few characters, however large or deep it is."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'}"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a huge integer"
    return repr(value[:40] if isinstance(value, str) else value)


def _has_huge(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_huge(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return any(map(_has_huge, value))
    return isinstance(value, int) and value.bit_length() > 1023


def describe(kind: Any) -> str:
    """Put the type of an option into words: `an integer >= 1, or none`."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _bounded(*get_args(kind))
    if origin is Literal:
        return _joined(list(map(str, get_args(kind))))
    if origin in (Union, types.UnionType):
        return _joined([describe(part) for part in get_args(kind)])
    return "none" if kind is type(None) else _WORDS[kind.__name__]


def _bounded(kind: type, bounds: Meta) -> str:
    word = _WORDS[kind.__name__]
    low = bounds.ge if bounds.gt is None else bounds.gt
    high = bounds.le if bounds.lt is None else bounds.lt
    if low == -LARGEST:
        return "a finite number"
    if high in (LARGEST, 2**63 - 1):
        return f"{word} {'>=' if bounds.gt is None else '>'} {low:g}"
    left, right = "[" if bounds.gt is None else "(", "]" if bounds.lt is None else ")"
    return f"{word} in {left}{low:g}, {high:g}{right}"


def _joined(words: list[str]) -> str:
    return " or ".join([*([", ".join(words[:-1])] if words[:-1] else []), words[-1]])


def as_declared(value: Any, kind: Any) -> Any:
    """Return an option's value as its type; strings of a command line are read as it.

    Raises `msgspec.ValidationError` for a value that is not of the type.
    """
    word = value.strip().lower() if isinstance(value, str) else value
    if word == "none" and type(None) in get_args(kind):
        return None
    if kind is bool and isinstance(word, str):
        value = {"yes": True, "no": False}.get(word, word)
    if get_origin(kind) is Literal or (isinstance(value, str) and kind in (str, str | None)):
        return msgspec.convert(value, kind)
    if isinstance(value, str):
        value = value.strip()
    if not isinstance(value, int) and isinstance(value, Integral):
        value = int(value)  # numpy's, too
    return msgspec.convert(value, kind, strict=False)
