"""Does a JSON value have the shape that a type says?"""

from __future__ import annotations

import types
import typing
from typing import Any


def fits(value: Any, shape: Any) -> bool:
    """Whether plain data is of a type made of TypedDict, list, dict, unions and plain types."""
    origin, parts = typing.get_origin(shape), typing.get_args(shape)
    if shape is Any:
        return True
    if typing.is_typeddict(shape):
        hints = typing.get_type_hints(shape)
        same = isinstance(value, dict) and value.keys() == hints.keys()
        return same and all(fits(value[name], hint) for name, hint in hints.items())
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items()
        )
    if shape is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if shape is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, shape)
