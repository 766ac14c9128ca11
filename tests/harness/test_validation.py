"""Values of JSON and YAML held against types: what passes, and what is said of the rest."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import pytest

from nabla_eval.validation import mismatch


class Inner(TypedDict):
    name: str


class Outer(TypedDict, total=False):
    inner: Inner
    several: list[Inner]
    by_name: dict[str, float]
    kind: Literal["a", "b"]
    maybe: int | None
    perhaps: Inner | None
    anything: Any
    tokens: list[int]


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"inner": {"name": "x", "more": 1}, "further": [1]},
        {"several": [], "by_name": {"a": 1, "b": 0.5}, "kind": "b"},
        {"maybe": None, "anything": [[{}]]},
        {"tokens": [0, -5, 2**80]},
    ],
)
def test_what_is_of_the_type_passes(value):
    assert mismatch(value, Outer) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "it must be a mapping, got a list"),
        ({"inner": {}}, "inner lacks name"),
        ({"inner": {"name": 3}}, "inner.name must be a string, got 3"),
        ({"several": [{"name": "x"}, None]}, "several[1] must be a mapping, got None"),
        ({"by_name": {"a": "1"}}, "by_name[...] must be a number, got a string"),
        ({"by_name": {"a": True}}, "by_name[...] must be a number, got true or false"),
        ({"by_name": {3: 1.0}}, "a key of by_name must be a string, got an integer"),
        ({"kind": "c"}, "kind cannot be 'c'"),
        ({"kind": ["a"]}, "kind must be a string, got a list"),
        ({"maybe": 0.5}, "maybe must be an integer or null, got 0.5"),
        ({"maybe": True}, "maybe must be an integer or null, got True"),
        ({"perhaps": {"name": 3}}, "perhaps.name must be a string, got 3"),
        ({"perhaps": {}}, "perhaps lacks name"),
        ({"perhaps": 3}, "perhaps must be a mapping or null, got 3"),
        ({"inner": 10**5000}, "it holds a huge integer"),
        ({"tokens": [1, 2, True]}, "tokens[2] must be an integer, got True"),
        ({"tokens": [1, 2.5]}, "tokens[1] must be an integer, got 2.5"),
        ({"tokens": [1, -(10**400)]}, "it holds a huge integer"),
        ({"by_name": {"a": 1.0, "b": 10**400}}, "it holds a huge integer"),
        ({"inner": "x" * 9999}, f"inner must be a mapping, got {'x' * 40!r}"),
    ],
)
def test_the_first_fault_is_named_by_its_place(value, said):
    assert mismatch(value, Outer) == said
