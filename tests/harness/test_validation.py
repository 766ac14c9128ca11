"""Values of JSON and YAML held against types: what passes, and what is said of the rest."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import pytest

from nabla_eval import validation
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
def test_what_is_of_the_type_passes(value: Any) -> None:
    assert mismatch(value, Outer) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "it is a list and not a mapping"),
        ({"inner": {}}, "inner lacks name"),
        ({"inner": {"name": 3}}, "inner.name is 3 and not a text"),
        ({"several": [{"name": "x"}, None]}, "several[1] is None and not a mapping"),
        ({"by_name": {"a": "1"}}, "by_name.a is '1' and not a number"),
        ({"by_name": {"a": True}}, "by_name.a is True and not a number"),
        ({"by_name": {3: 1.0}}, "a key of by_name is 3 and not a text"),
        ({"kind": "c"}, "kind is 'c' and not 'a' or 'b'"),
        ({"kind": ["a"]}, "kind is a list and not 'a' or 'b'"),
        ({"maybe": 0.5}, "maybe is 0.5 and not an integer or null"),
        ({"maybe": True}, "maybe is True and not an integer or null"),
        ({"perhaps": {"name": 3}}, "perhaps.name is 3 and not a text"),
        ({"perhaps": {}}, "perhaps lacks name"),
        ({"perhaps": 3}, "perhaps is 3 and not a mapping or null"),
        ({"inner": 10**5000}, "inner is a huge integer and not a mapping"),
        ({"tokens": [1, 2, True]}, "tokens[2] is True and not an integer"),
        ({"tokens": [1, 2.0]}, "tokens[1] is 2.0 and not an integer"),
        ({"tokens": [1, -(10**400)]}, "tokens[1] is a huge integer and not an integer"),
        ({"by_name": {"a": 1.0, "b": 10**400}}, "by_name.b is a huge integer and not a number"),
        ({"inner": "x" * 9999}, f"inner is {'x' * 40!r} and not a mapping"),
    ],
)
def test_the_first_fault_is_named_by_its_place(value: Any, said: str) -> None:
    assert mismatch(value, Outer) == said


def test_sound_numbers_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces have them by the million."""
    looked = []
    monkeypatch.setattr(validation, "_is", lambda value, kind: looked.append(value) or True)
    many = {"tokens": list(range(10**5)), "by_name": {str(i): i / 2 for i in range(10**5)}}
    assert mismatch(many, Outer) is None
    assert len(looked) < 10
