"""The outer structure of an answer: lists, tuples, intervals, sets, matrices, assignments.

The leaves (numbers, words, expressions) are compared by `compare`; what a computer algebra system
would have to guess (is ``(1, 2)`` ordered? does ``x = 5`` answer the question of 5?) is decided
here. The README of this folder lists the decisions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Union

from nabla_eval.grading.names import is_name, is_quantity
from nabla_eval.grading.numbers import Number, parse_number
from nabla_eval.grading.units import NO_UNITS, Units, split_units


@dataclass(frozen=True)
class Leaf:
    """A value without inner structure; ``number`` is set when no computer algebra is needed."""

    text: str
    number: Number | None = None
    units: Units = NO_UNITS


@dataclass(frozen=True)
class Collection:
    """Items between ``brackets``: "" (a bare list), "()", "[)", "{}"; also ":" (a ratio), "u" (a
    union), "matrix" (of rows) and "row" (of a matrix).
    """

    text: str
    brackets: str
    items: tuple[Node, ...]

    @property
    def ordered(self) -> bool:
        return self.brackets not in {"", "{}", "u"}


@dataclass(frozen=True)
class Relation:
    """An equation, an inequality, or a chain of them.

    Where it says what one ``unknown`` is (x = 5, x < 3, 0 < x < 1, f(x) = 2x, x \\in [0,1]), its
    ``solution`` is the value or the set of values.
    """

    text: str
    sides: tuple[str, ...]
    signs: tuple[str, ...]
    unknown: str = ""
    solution: Node | None = None

    @property
    def assigns(self) -> bool:
        return self.solution is not None and set(self.signs) <= _ASSIGNING


Node = Union[Leaf, Collection, Relation]  # noqa: UP007 (isinstance in 3.10)


MAX_ITEMS = 60
MAX_DEPTH = 20


_ASSIGNING = {"=", r"\in", r"\equiv"}
_INTERVALS = ("()", "[]", "[)", "(]")
_UPWARDS = {">": "<", r"\ge": r"\le"}
_ABSOLUTE = re.compile(r"\|[a-vxy]\|\Z")  # |z| may be complex
_BOUND = re.compile(r"(?:(?![-+,]|(?<![A-Za-z\\])[A-Za-z]).)*\Z")
_JOIN_OR = re.compile(r"(?<![A-Za-z\\])or(?![a-z])")
_DOMAIN = re.compile(r"([A-Za-z](?:_\{[0-9a-z]\})?) ?(?:\\in ?(?:\\mathbb\{R\}|\\mathbb R|R))?\Z")
# The second one is Indian: 12,34,567.
_GROUPED = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3})(?![0-9])")
_SEPARATOR = re.compile(r"[,;]\s*(?:and|or)(?![a-z])|[,;]|(?<![A-Za-z\\])(?:and|or)(?![a-z])")
_SIGN = re.compile(r"\\(?:le|ge|ne|approx|in|equiv)(?![a-zA-Z])|[=<>]")
_UNION = re.compile(r"\\cup(?![a-zA-Z])")
_RATIO = re.compile(r":")
_MATRIX = re.compile(
    r"[(\[]?\\begin\{(?:[pbB]?(?:small)?matrix|array)\*?\}(?:[\[{][lcr| ]*[\]}])?(.*)"
    r"\\end\{(?:[pbB]?(?:small)?matrix|array)\*?\}[)\]]?"
    r"(\^ ?\{?(?:T|\\top|\\intercal|\\mathsf ?\{?T\}?)\}?)?\Z"
)


def parse(text: str, *, grouped: bool = True, depth: int = 0) -> Node:
    """Structure of a normalised answer.

    ``grouped`` reads "1,234" outside brackets as one number, otherwise as a list of two. Text that
    is too deep or too long to take apart stays one leaf.
    """
    text = text.strip()
    if depth > MAX_DEPTH:
        return _leaf(text)
    brackets, inner = _bracketed(text)
    if brackets == "braces" or (brackets == "()" and len(_split(inner, _SEPARATOR)) == 1):
        # Parentheses around one value group; a factorial or exponent after them is not enclosed.
        return parse(inner, grouped=grouped, depth=depth + 1)
    if (matrix := _matrix(text, depth)) is not None:
        return matrix
    if grouped:
        text = _join_groups(text)
    items = _split(text, _SEPARATOR)
    if 1 < len(items) <= MAX_ITEMS:
        return _list(text, "", items, depth, grouped)
    return _single(text, depth, grouped)


def _single(text: str, depth: int, grouped: bool) -> Node:
    sides, signs = _cut(text, _SIGN)
    if signs:
        return _related(text, sides, signs, depth, grouped)
    pieces = _split(text, _UNION)
    if 1 < len(pieces) <= MAX_ITEMS:
        return _list(text, "u", pieces, depth, grouped)
    brackets, inner = _bracketed(text)
    if brackets == "{}" and ("|" in inner or ":" in inner):
        return _set_builder(inner, depth + 1) or Leaf(text)
    items = _split(inner, _SEPARATOR)
    if brackets == "{}" or (brackets and len(items) > 1):
        return _list(text, brackets, items[: MAX_ITEMS + 1], depth, grouped=False)
    parts = _split(text, _RATIO)
    if len(parts) > 1:
        return _list(text, ":", parts, depth, grouped)
    if re.fullmatch(r"(?:[A-Za-z] ?\\in ?)?\\mathbb ?\{?R\}?", text):
        return _interval("(", r"-\infty", r"\infty", ")", depth + 1)
    return _signed(text) or _leaf(text)


def _leaf(text: str) -> Leaf:
    value, units = split_units(text)
    return Leaf(value, parse_number(value), units)


def _list(text: str, brackets: str, items: list[str], depth: int, grouped: bool) -> Node:
    nodes: list[Node] = []
    for item in items:
        node = parse(item, grouped=grouped, depth=depth + 1)
        # An expanded ± spreads over the list that holds it, but is one coordinate of a tuple.
        spread = isinstance(node, Collection) and node.brackets == "" and brackets in {"", "{}"}
        nodes.extend(node.items if spread and isinstance(node, Collection) else [node])
    if brackets == "" and (whole := _combined(text, nodes) or _systems(text, nodes)):
        return whole
    if brackets in {"", "{}"}:
        distinct = {
            (n.text.replace(";", ","), getattr(n, "units", None)): n for n in _share_name(nodes)
        }
        nodes = list(distinct.values())
        if len(nodes) == 1:
            return nodes[0]
    return Collection(text, brackets, tuple(nodes))


def name_of(node: Node) -> str | None:
    """Return the unknown that an assignment gives a value; None for other nodes."""
    return node.unknown if isinstance(node, Relation) and node.assigns else None


def _share_name(nodes: list[Node]) -> list[Node]:
    """``x = 1, 2`` and ``x = 1, x = 2`` list values of one unknown; its name is dropped."""
    if name_of(nodes[0]) is None or len({name_of(node) for node in nodes} - {None}) > 1:
        return nodes
    return [
        node.solution or node if isinstance(node, Relation) and node.assigns else node
        for node in nodes
    ]


def _systems(text: str, nodes: list[Node]) -> Node | None:
    """``p=5, q=2, p=7, q=2`` as two solutions, the pairs (5, 2) and (7, 2)."""
    names = [name_of(node) for node in nodes]
    width, rounds = len(set(names)), len(names) // len(set(names))
    if None in names or min(width, rounds) < 2 or names != names[:width] * rounds:
        return None
    rows = [tuple(nodes[i : i + width]) for i in range(0, len(nodes), width)]
    pairs = [Collection(",".join(node.text for node in row), "", row) for row in rows]
    return Collection(text, "", tuple(pairs))


def _signed(text: str) -> Collection | None:
    """``a \\pm b`` as the list of its two values; None without or with several such signs."""
    if len(re.findall(r"\\pm(?![a-zA-Z])", text)) != 1 or r"\mp" in text:
        return None
    plus, minus = (re.sub(r"\\pm ?", sign, text) for sign in "+-")
    plus = re.sub(r"(?<![0-9A-Za-z)}\]])\+", "", plus)
    return Collection(text, "", (_leaf(plus), _leaf(minus)))


def _matrix(text: str, depth: int) -> Collection | None:
    match = _MATRIX.match(text)
    if match is None or r"\begin" in match.group(1):
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]{0,9}\])?|\\cr", match.group(1)) if row.strip()]
    if not rows or len(rows) > MAX_ITEMS:
        return None
    cells = [[parse(cell, depth=depth + 1) for cell in row.split("&")] for row in rows]
    if len({len(row) for row in cells}) != 1:
        return None
    return matrix_of(text, list(zip(*cells, strict=True)) if match.group(2) else cells)


def matrix_of(text: str, rows: Iterable[Sequence[Node]]) -> Collection:
    """Return the matrix of these rows."""
    named = [Collection("&".join(cell.text for cell in row), "row", tuple(row)) for row in rows]
    return Collection(text, "matrix", tuple(named))


def _related(text: str, sides: list[str], signs: list[str], depth: int, grouped: bool) -> Node:
    if r"\approx" in signs:
        # The exact side is the answer; where there is none, the approximation is.
        if signs[0] == r"\approx" and is_name(sides[0]):
            return _related(text, sides[:2], ["="], depth, grouped)
        exact = text[: text.index(r"\approx")].strip()
        return parse(exact or sides[1], grouped=grouped and not exact, depth=depth + 1)
    if set(signs) <= _ASSIGNING:
        name, value = sides[0], sides[-1]
        if not is_name(name) and is_name(value) and not re.search("[A-Za-z]", name):
            name, value = value, name
        solution = parse(value, grouped=grouped, depth=depth + 1)
        if is_name(name) or is_quantity(name):
            return Relation(text, tuple(sides), tuple(signs), name, solution)
        worked_out = len(signs) > 1 or not re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text))
        if worked_out and r"\in" not in signs:
            return solution
    elif bounded := _solution(sides, signs, depth + 1):
        names = [side.strip("|") for side in sides if is_name(side) or _ABSOLUTE.match(side)]
        unknown = names[0] if len(names) == 1 else ""
        return Relation(text, tuple(sides), tuple(signs), unknown, bounded)
    return Relation(text, tuple(sides), tuple(signs))


# --- sets of reals -------------------------------------------------------------------------------


def _solution(sides: list[str], signs: list[str], depth: int) -> Node | None:
    """Return the set of the one unknown that an inequality bounds; None for other relations."""
    if signs == [r"\ne"]:
        value = is_name(sides[0]) and "," not in sides[1] and parse(sides[1], depth=depth)
        return _outside(sides[1], ")(", sides[1], depth) if isinstance(value, Leaf) else None
    if all(sign in _UPWARDS for sign in signs):
        sides, signs = sides[::-1], [_UPWARDS[sign] for sign in reversed(signs)]
    if not set(signs) <= {"<", r"\le"}:
        return None
    opening, closing = "(["[signs[0] == r"\le"], ")]"[signs[-1] == r"\le"]
    if len(sides) == 3 and is_name(sides[1]):
        return _interval(opening, sides[0], sides[2], closing, depth)
    if len(sides) != 2:
        return None
    low, high = sides
    if _ABSOLUTE.match(low) and _BOUND.match(high):
        return _interval(opening, f"-{high}", high, closing, depth)
    if _ABSOLUTE.match(high) and _BOUND.match(low):
        return _outside(f"-{low}", closing + opening, low, depth)
    if is_name(low) == is_name(high):
        return None
    if is_name(low):
        return _interval("(", r"-\infty", high, closing, depth)
    return _interval(opening, low, r"\infty", ")", depth)


def _interval(opening: str, low: str, high: str, closing: str, depth: int) -> Collection:
    ends = parse(low, depth=depth), parse(high, depth=depth)
    return Collection(f"{opening}{low},{high}{closing}", opening + closing, ends)


def _outside(low: str, brackets: str, high: str, depth: int) -> Collection:
    """Return everything below ``low`` or above ``high``."""
    below = _interval("(", r"-\infty", low, brackets[0], depth)
    return _union((below, _interval(brackets[1], high, r"\infty", ")", depth)))


def _union(parts: tuple[Node, ...]) -> Collection:
    return Collection(r"\cup".join(part.text for part in parts), "u", parts)


def is_interval(node: Node) -> bool:
    """Return whether two items stand in round or square brackets."""
    return isinstance(node, Collection) and node.brackets in _INTERVALS and len(node.items) == 2


def _members(node: Node) -> Node | None:
    """Return the set that a node is or describes; None for values."""
    if isinstance(node, Relation):
        return None if {"=", r"\equiv"}.intersection(node.signs) else node.solution
    return node if isinstance(node, Collection) and node.brackets in {"u", *_INTERVALS} else None


def _combined(text: str, nodes: list[Node]) -> Node | None:
    """Return the set that a list of inequalities or intervals describes; None for a list of values.

    "x < 1 or x > 2" is a union; "x > 1 and x < 2", also with a comma, bounds from both sides.
    """
    unknowns = {node.unknown if isinstance(node, Relation) else "" for node in nodes}
    found = [_members(node) for node in nodes]
    sets = [one for one in found if isinstance(one, Collection) and len(one.items) > 1]
    if len(sets) < len(nodes) or len(unknowns) != 1 or unknowns == {""}:
        return None
    if _JOIN_OR.search(text):
        parts = [part for one in sets for part in (one.items if one.brackets == "u" else (one,))]
        return None if "and" in text or ";" in text else _union(tuple(parts))
    return _intersection(*sets) if len(sets) == 2 and r"\in" not in text else None


def _intersection(one: Collection, other: Collection) -> Node | None:
    """Return the interval between a lower and an upper bound that are numbers."""
    lower, upper = (one, other) if one.items[-1].text == r"\infty" else (other, one)
    low, high = lower.items[0], upper.items[-1]
    open_ends = lower.items[-1].text, upper.items[0].text
    if "u" in {one.brackets, other.brackets} or open_ends != (r"\infty", r"-\infty"):
        return None
    if not (isinstance(low, Leaf) and isinstance(high, Leaf) and low.number and high.number):
        return None
    if low.number.value >= high.number.value:
        return None
    brackets = lower.brackets[0] + upper.brackets[1]
    text = f"{brackets[0]}{low.text},{high.text}{brackets[1]}"
    return Collection(text, brackets, (low, high))


def _set_builder(inner: str, depth: int) -> Node | None:
    """Return the set of reals that ``\\{x : condition\\}`` describes, from what the braces hold."""
    name, bar, condition = inner.partition("|" if "|" in inner.partition(":")[0] else ":")
    if not bar or not _DOMAIN.match(name.strip()):
        return None
    return _members(parse(condition.strip(), depth=depth))


# --- brackets and what stands outside of them ----------------------------------------------------


def _bracketed(text: str) -> tuple[str, str]:
    """Return the kind and the inside of the brackets around all of ``text``; else "" and it.

    Half-open intervals count; braces without backslashes print nothing and are called "braces".
    """
    if text.startswith(r"\{") and text.endswith(r"\}") and _closes_last(text[1:]):
        return "{}", text[2:-2].strip()
    around = text[:1] + text[-1:]
    if len(text) > 2 and around in {*_INTERVALS, "{}"} and _closes_last(text):
        return "braces" if around == "{}" else around, text[1:-1].strip()
    return "", text


def _closes_last(text: str) -> bool:
    return 0 not in depths(text)[:-1]


def depths(text: str) -> list[int]:
    """Return the depth after each character; any closing bracket closes any opening one."""
    return list(accumulate((char in "([{") - (char in ")]}") for char in text))


def _cut(text: str, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Return the pieces between matches outside of brackets and matrices, and these matches."""
    depth = depths(text)
    matrix = text.find(r"\begin")
    pieces, separators, start = [], [], 0
    for match in pattern.finditer(text):
        if depth[match.start()] == 0 and (matrix < 0 or match.start() < matrix):
            pieces.append(text[start : match.start()].strip())
            separators.append(match.group())
            start = match.end()
    return [*pieces, text[start:].strip()], separators


def _split(text: str, pattern: re.Pattern[str]) -> list[str]:
    return [piece for piece in _cut(text, pattern)[0] if piece] or [text]


def _join_groups(text: str) -> str:
    """Return ``text`` without separators of thousands outside brackets: (1,234) is a pair."""
    depth = depths(text)

    def join(match: re.Match[str]) -> str:
        before = text[match.start() - 1 : match.start()]
        kept = depth[match.start()] or before.isdigit() or before in {",", "."}
        return match.group() if kept else match.group().replace(",", "")

    return _GROUPED.sub(join, text)
