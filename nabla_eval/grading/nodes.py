"""The kinds of structure that an answer may have, and names of quantities."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Union

from nabla_eval.grading.simple import Number
from nabla_eval.grading.units import NO_UNITS, Units


@dataclass(frozen=True)
class Leaf:
    """A value without inner structure; ``number`` is set when no computer algebra is needed."""

    text: str
    number: Number | None = None
    units: Units = NO_UNITS


@dataclass(frozen=True)
class Collection:
    """Items between ``brackets``: "" (a bare list), "()", "[)", "{}", ":" (ratio), "u" (union)."""

    text: str
    brackets: str
    items: tuple[Node, ...]

    @property
    def ordered(self) -> bool:
        return self.brackets not in {"", "{}", "u"}


@dataclass(frozen=True)
class Matrix:
    """Rows of nodes."""

    text: str
    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Assignment:
    """``name = value`` or ``name \\in value``."""

    text: str
    name: str
    value: Node


@dataclass(frozen=True)
class Relation:
    """An equation that is no assignment, an inequality, or a chain of inequalities."""

    text: str
    sides: tuple[str, ...] = field(default=())
    signs: tuple[str, ...] = field(default=())


Node = Union[Leaf, Collection, Matrix, Assignment, Relation]  # noqa: UP007 (isinstance in 3.10)

_GREEK = "alpha|beta|gamma|delta|theta|lambda|mu|phi|varphi|omega|sigma|rho|ell"
_LETTER = rf"(?:[A-Za-z]|\\(?:{_GREEK}))"
_SUBSCRIPT = r"(?:_\{[0-9A-Za-z]{1,4}\})?"
_ATOM = rf"{_LETTER}{_SUBSCRIPT}'{{0,2}}"
_NAME = re.compile(
    rf"(?:{_ATOM}(?:\^\{{-1\}})?(?:\({_ATOM}(?:,{_ATOM})*\)|\([0-9]{{1,4}}\))?"
    r"|(?:m?\\angle ?|\\overline|\\triangle ?)\{?[A-Z]{1,4}\}?"
    rf"|\\(?:gcd|lcm)\({_ATOM},{_ATOM}\)"
    r"|[A-Z]{2,4}|\|[A-Z]{2}\||\[[A-Z]{3,6}\]"
    rf"|\({_ATOM}(?:,{_ATOM})+\)|{_ATOM}(?::{_ATOM})+|[A-Za-z]{{3,}}(?: [A-Za-z]+){{0,4}})\Z"
)
_FUNCTION = re.compile(rf"({_ATOM})\((?:[a-z]|\\[a-z]+)(?:,[a-z])*\)\Z")


_INNER = r"(?:[^()\[\]]|\([^()]*\)){1,40}"
_QUANTITY = re.compile(
    r"(?:(?:[PEfghFG]|n(?=\([A-Z])|\\mathbb\{[PE]\}|\\det|\\?Pr|Var|[Aa]rea|[Vv]ol)'{0,2} ?"
    rf"[(\[]{_INNER}[)\]]|\\det ?[A-Z]"
    r"|\|(?:[zwA-Z]|[A-Z] ?\\c[au]p ?[A-Z]|\\(?:overrightarrow|vec) ?\{(?:[a-z]|[A-Z]+)\})\|"
    r"|\\(?:overrightarrow|widehat|overarc|overparen) ?\{[A-Z]{2,3}\}"
    r"|\\(?:sin|cos|tan|cot|sec|csc) ?(?:\(?[A-Z]\)?|\\angle ?\{?[A-Z]{1,3}\}?)"
    r"|\\(?:lim|sum|int|prod)(?![a-z]).{1,80})\Z"
)


def is_quantity(text: str) -> bool:
    """Whether ``text`` has a value of its own that a question may ask for: P(A|B), |z|, a limit."""
    return len(text) <= 100 and _QUANTITY.match(text) is not None


def is_name(text: str) -> bool:
    """Whether ``text`` only names a quantity: x, x_1, f(x), AB, \\angle ABC, (x,y), total cost."""
    return len(text) <= 60 and _NAME.match(text) is not None


def named(node: Assignment, other: Node) -> Node:
    """The value of ``node``: ``(x,y) = (2,3)`` as x = 2, y = 3 beside a list of such values."""
    names, value = node.name.strip("()").split(","), node.value
    if not (isinstance(other, Collection) and isinstance(value, Collection)):
        return value
    if len(names) != len(value.items) or not all(isinstance(n, Assignment) for n in other.items):
        return value
    items = [Assignment(f"{n}={v.text}", n, v) for n, v in zip(names, value.items, strict=True)]
    return Collection(value.text, "", tuple(items))


def in_order(items: tuple[Node, ...]) -> tuple[Node, ...]:
    """``y = 3, x = 2`` as x = 2, y = 3, which is the point (2, 3); other lists as they stand."""
    assigned = [item for item in items if isinstance(item, Assignment)]
    if len(assigned) < len(items) or not {item.name for item in assigned} <= {"x", "y", "z"}:
        return items
    return tuple(sorted(assigned, key=lambda item: item.name))


def function_of(name: str) -> str | None:
    """The f of f(x), whatever its variable is called; None for f(2), P(A) and other names."""
    match = _FUNCTION.match(name)
    return match.group(1) if match else None


_TERM_ATOM = (
    r"(?:(?:m?\\angle|\\triangle|\\overline|\\overrightarrow) ?\{?[A-Z]{1,3}\}?"
    rf"|\|[A-Z]{{2}}\||\|{_ATOM}\||{_LETTER}\([0-9]{{1,4}}\)|{_ATOM})"
)
_PRODUCT = rf"{_TERM_ATOM}(?: ?(?:\\cdot|\\times|\*)? ?{_TERM_ATOM}){{0,5}}"
_TERM = re.compile(
    rf"([0-9]{{0,4}}) ?(?:\\frac\{{{_PRODUCT}\}}\{{{_PRODUCT}\}}"
    rf"|{_PRODUCT}(?:/{_TERM_ATOM})?)\Z|[0-9]+\Z"
)


def requested(text: str) -> bool:
    """Whether ``text`` is a quantity that a question asks for: m+n, a+b+c, xy, a/b, AB+CD.

    It is linear in each of its two or more letters. Equations that are answers themselves have one
    unknown (2x+1 = 7), powers, or x and y with coefficients (2x+3y = 6, a line).
    """
    if len(text) > 80 or "^" in text:
        return False
    terms = [term.strip() for term in re.split(r"[+-]", text.strip().lstrip("+-"))]
    matches = [_TERM.match(term) for term in terms]
    if len(terms) > 12 or not all(matches):
        return False
    coefficients = [match.group(1) for match in matches if match and match.group(1)]
    letters = re.findall(_TERM_ATOM, re.sub(r"\\(?:frac|cdot|times)", " ", text))
    if len(set(letters)) < 2 or (coefficients and len(terms) == 1):
        return False
    return not (coefficients and {"x", "y", "z"}.intersection(letters))
