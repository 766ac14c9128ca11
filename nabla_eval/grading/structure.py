"""The outer structure of an answer: lists, tuples, intervals, sets, matrices, assignments.

The leaves (numbers, words, expressions) are compared by `compare`; what a computer algebra system
would have to guess (is ``(1, 2)`` ordered? does ``x = 5`` answer the question of 5?) is decided
here. The README of this folder lists the decisions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
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


MAX_ITEMS = 60
MAX_DEPTH = 20


_OPEN, _CLOSE = "([{", ")]}"
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
    if (inner := _enclosed(text, "()")) is not None and len(_split(inner, _SEPARATOR)) == 1:
        # Parentheses around one value group; a factorial or exponent after them is not enclosed.
        return parse(inner, grouped=grouped, depth=depth + 1)
    if (inner := _enclosed(text, "{}")) is not None:
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
    sides, signs = _split_signs(text)
    if signs:
        return _related(text, sides, signs, depth, grouped)
    pieces = _split(text, _UNION)
    if 1 < len(pieces) <= MAX_ITEMS:
        return _list(text, "u", pieces, depth, grouped)
    if (bracketed := _bracketed(text)) is not None:
        brackets, inner = bracketed
        items = _split(inner, _SEPARATOR)
        if brackets == "{}" and ("|" in inner or ":" in inner):
            return set_builder(inner, depth + 1) or Leaf(text)
        if len(items) > 1 or brackets == "{}":
            return _list(text, brackets, items[: MAX_ITEMS + 1], depth, grouped=False)
    parts = _split(text, _RATIO)
    if len(parts) > 1 and all(parts):
        return _list(text, ":", parts, depth, grouped)
    if re.fullmatch(r"(?:[A-Za-z] ?\\in ?)?\\mathbb ?\{?R\}?", text):
        return all_reals(depth + 1)
    return _signed(text, depth) or _leaf(text)


def _leaf(text: str) -> Leaf:
    measure = split_units(text)
    return Leaf(measure.text, parse_number(measure.text), measure.units)


def _list(text: str, brackets: str, items: list[str], depth: int, grouped: bool) -> Node:
    nodes: list[Node] = []
    for item in items:
        node = parse(item, grouped=grouped, depth=depth + 1)
        # An expanded ± spreads over the list that holds it, but is one coordinate of a tuple.
        spread = isinstance(node, Collection) and node.brackets == "" and brackets in {"", "{}"}
        nodes.extend(node.items if spread and isinstance(node, Collection) else [node])
    if brackets == "" and (whole := joined(text, nodes, depth + 1) or _systems(text, nodes)):
        return whole
    if brackets in {"", "{}"}:
        nodes = list({_key(node): node for node in _share_name(nodes)}.values())
        if len(nodes) == 1:
            return nodes[0]
    return Collection(text, brackets, tuple(nodes))


def _key(node: Node) -> tuple[str, object]:
    return node.text.replace(";", ","), node.units if isinstance(node, Leaf) else None


def _share_name(nodes: list[Node]) -> list[Node]:
    """``x = 1, 2`` and ``x = 1, x = 2`` list values of one unknown; its name is dropped."""
    names = {node.name for node in nodes if isinstance(node, Assignment)}
    first = nodes[0]
    if len(names) != 1 or not isinstance(first, Assignment):
        return nodes
    return [node.value if isinstance(node, Assignment) else node for node in nodes]


def _systems(text: str, nodes: list[Node]) -> Node | None:
    """``p=5, q=2, p=7, q=2`` as two solutions, the pairs (5, 2) and (7, 2)."""
    names = [node.name for node in nodes if isinstance(node, Assignment)]
    width = len(set(names))
    if len(names) != len(nodes) or not 1 < width < len(names) or len(names) % width:
        return None
    if any(names[i] != names[i % width] for i in range(len(names))):
        return None
    rows = [tuple(nodes[i : i + width]) for i in range(0, len(nodes), width)]
    return Collection(text, "", tuple(
        Collection(",".join(node.text for node in row), "", row) for row in rows
    ))  # fmt: skip


def _signed(text: str, depth: int) -> Collection | None:
    """``a \\pm b`` as the list of its two values; None without or with several such signs."""
    if len(re.findall(r"\\pm(?![a-zA-Z])", text)) != 1 or r"\mp" in text:
        return None
    plus, minus = (re.sub(r"\\pm ?", sign, text) for sign in "+-")
    plus = re.sub(r"(?<![0-9A-Za-z)}\]])\+", "", plus)
    return Collection(text, "", (_leaf(plus), _leaf(minus)))


def _matrix(text: str, depth: int) -> Matrix | None:
    match = _MATRIX.match(text)
    if match is None or r"\begin" in match.group(1):
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]{0,9}\])?|\\cr", match.group(1)) if row.strip()]
    if not rows or len(rows) > MAX_ITEMS:
        return None
    cells = [tuple(parse(cell, depth=depth + 1) for cell in row.split("&")) for row in rows]
    if len({len(row) for row in cells}) != 1:
        return None
    return Matrix(text, tuple(zip(*cells, strict=True)) if match.group(2) else tuple(cells))


def _related(text: str, sides: list[str], signs: list[str], depth: int, grouped: bool) -> Node:
    if r"\approx" in signs:
        # The exact side is the answer; where there is none, the approximation is.
        cut = signs.index(r"\approx")
        if cut == 0 and not sides[0]:
            return parse(sides[1], grouped=grouped, depth=depth + 1)
        if cut == 0 and is_name(sides[0]):
            signs[0] = "="
            return _related(text, sides[:2], signs[:1], depth, grouped)
        return parse("".join(_joined(sides[: cut + 1], signs[:cut])), depth=depth + 1)
    if set(signs) <= {"=", r"\in", r"\equiv"}:
        name, value = sides[0], sides[-1]
        if not is_name(name) and is_name(value) and not re.search("[A-Za-z]", name):
            name, value = value, name
        if is_name(name) or is_quantity(name):
            return Assignment(text, name, parse(value, grouped=grouped, depth=depth + 1))
        worked_out = len(signs) > 1 or not re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text))
        if worked_out and r"\in" not in signs:
            return parse(value, grouped=grouped, depth=depth + 1)
    return Relation(text, tuple(sides), tuple(signs))


def _joined(sides: list[str], signs: list[str]) -> list[str]:
    return [sides[0], *(f"{sign} {side}" for sign, side in zip(signs, sides[1:], strict=True))]


def _enclosed(text: str, brackets: str) -> str | None:
    """Inside of ``text`` when one pair of brackets holds all of it."""
    enclosed = len(text) > 2 and text[0] + text[-1] == brackets and _closes_last(text)
    return text[1:-1].strip() if enclosed else None


def _closes_last(text: str) -> bool:
    return all(depth > 0 or index == len(text) - 1 for index, depth in enumerate(_depths(text)))


def _bracketed(text: str) -> tuple[str, str] | None:
    """Kind and inside of the brackets around ``text``; half-open intervals count."""
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return ("{}", text[2:-2]) if _closes_last(text[1:]) else None
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]" and _closes_last(text):
        return text[0] + text[-1], text[1:-1]
    return None


def _depths(text: str) -> list[int]:
    """Nesting depth after each character; any closing bracket closes any opening one."""
    depth, depths = 0, []
    for char in text:
        depth += (char in _OPEN) - (char in _CLOSE)
        depths.append(depth)
    return depths


def _top_level(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    depths = _depths(text)
    inside_matrix = text.find(r"\begin")
    return [
        match for match in pattern.finditer(text)
        if depths[match.start()] == 0 and (inside_matrix < 0 or match.start() < inside_matrix)
    ]  # fmt: skip


def _split(text: str, pattern: re.Pattern[str]) -> list[str]:
    pieces, start = [], 0
    for match in _top_level(text, pattern):
        pieces.append(text[start : match.start()].strip())
        start = match.end()
    pieces.append(text[start:].strip())
    return [piece for piece in pieces if piece] or [text]


def _split_signs(text: str) -> tuple[list[str], list[str]]:
    matches = _top_level(text, _SIGN)
    bounds = [0, *(match.end() for match in matches)]
    ends = [*(match.start() for match in matches), len(text)]
    sides = [text[start:end].strip() for start, end in zip(bounds, ends, strict=True)]
    return sides, [match.group() for match in matches]


def _join_groups(text: str) -> str:
    """Thousands separators taken out, outside brackets only: (1,234) is a pair."""
    depths = _depths(text)

    def join(match: re.Match[str]) -> str:
        before = text[match.start() - 1] if match.start() else ""
        if depths[match.start()] or before.isdigit() or before in {",", "."}:
            return match.group()
        return match.group().replace(",", "")

    return _GROUPED.sub(join, text)


_JOIN_OR = re.compile(r"(?<![A-Za-z\\])or(?![a-z])")
_DOMAIN = re.compile(r"([A-Za-z](?:_\{[0-9a-z]\})?) ?(?:\\in ?(?:\\mathbb\{R\}|\\mathbb R|R))?\Z")
_ABSOLUTE = re.compile(r"\|[a-vxy]\|\Z")
_UP = {">": "<", r"\ge": r"\le"}
_ALL = r"\mathbb{R}"


def interval_of(relation: Relation, depth: int = 0) -> Node | None:
    """Interval of the one unknown that an inequality bounds; None for other relations."""
    sides, signs = list(relation.sides), list(relation.signs)
    if signs == [r"\ne"] and is_name(sides[0]) and "," not in sides[1]:
        value = parse(sides[1], depth=depth)
        halves = (_interval(r"-\infty", "<<", sides[1], depth),
                  _interval(sides[1], "<<", r"\infty", depth))  # fmt: skip
        return _union(halves) if isinstance(value, Leaf) else None
    if not set(signs) <= {"<", ">", r"\le", r"\ge"}:
        return None
    if set(_UP) & set(signs):
        if {"<", r"\le"} & set(signs):
            return None
        sides.reverse()
        signs = [_UP[sign] for sign in reversed(signs)]
    if len(sides) == 2 and (within := _distance(sides, "[" if signs[0] == r"\le" else "<", depth)):
        return within
    if len(sides) == 3 and is_name(sides[1]):
        low, high = sides[0], sides[2]
    elif len(sides) == 2 and is_name(sides[0]) != is_name(sides[1]):
        low, high = (r"-\infty", sides[1]) if is_name(sides[0]) else (sides[0], r"\infty")
        signs = ["<", signs[0]] if is_name(sides[0]) else [signs[0], "<"]
    else:
        return None
    return _interval(low, "".join("[" if sign == r"\le" else "<" for sign in signs), high, depth)


def _distance(sides: list[str], closed: str, depth: int = 0) -> Collection | None:
    """The set of ``|x| < a`` or of ``a < |x|``; None for other sides. ``|z|`` may be complex."""
    bars = [_ABSOLUTE.match(side) is not None for side in sides]
    bound = sides[0] if bars[1] else sides[1]
    if bars[0] == bars[1] or re.search(r"[-+,]|(?<![A-Za-z\\])[A-Za-z]", bound):
        return None
    if bars[0]:
        return _interval(f"-{bound}", closed * 2, bound, depth)
    below = _interval(r"-\infty", "<" + closed, f"-{bound}", depth)
    return _union((below, _interval(bound, closed + "<", r"\infty", depth)))


def _interval(low: str, closed: str, high: str, depth: int = 0) -> Collection:
    brackets = ("[" if closed[0] == "[" else "(") + ("]" if closed[1] == "[" else ")")
    text = f"{brackets[0]}{low},{high}{brackets[1]}"
    return Collection(text, brackets, (parse(low, depth=depth), parse(high, depth=depth)))


def variable(relation: Relation) -> str:
    """The unknown of an inequality of one unknown, without the bars of its absolute value."""
    names = [s.strip("|") for s in relation.sides if is_name(s) or _ABSOLUTE.match(s)]
    return names[0] if len(names) == 1 else ""


def _union(parts: tuple[Node, ...]) -> Collection:
    return Collection(r"\cup".join(part.text for part in parts), "u", parts)


def is_interval(node: Node) -> bool:
    """Return whether two items stand in round or square brackets."""
    return (
        isinstance(node, Collection) and len(node.items) == 2
        and node.brackets in {"()", "[]", "[)", "(]"}
    )  # fmt: skip


def _unknown(node: Node) -> str | None:
    if isinstance(node, Assignment):
        return node.name
    if isinstance(node, Relation):
        return next((side for side in node.sides if is_name(side)), None)
    return None


def _as_set(node: Node, depth: int = 0) -> Node | None:
    if isinstance(node, Relation):
        return interval_of(node, depth)
    value = node.value if isinstance(node, Assignment) and r"\in" in node.text else node
    return value if is_interval(value) else None


def joined(text: str, nodes: list[Node], depth: int = 0) -> Node | None:
    """The set that a list of inequalities or intervals describes; None for a list of values.

    "x < 1 or x > 2" is a union; "x > 1 and x < 2", also with a comma, bounds from both sides.
    """
    if not any(isinstance(node, Relation) or _bounded(node) for node in nodes):
        return None
    sets = [_as_set(node, depth) for node in nodes]
    if len({_unknown(node) for node in nodes}) != 1:
        return None
    if _JOIN_OR.search(text):
        flat = [
            part for node in sets if node is not None
            for part in (node.items if node.brackets == "u" else (node,))  # type: ignore[union-attr]
        ]  # fmt: skip
        whole = all(node is not None for node in sets) and "and" not in text and ";" not in text
        return _union(tuple(flat)) if whole else None
    if len(sets) == 2 and all(isinstance(node, Relation) for node in nodes):
        return _intersection(sets, depth)
    return None


def _bounded(node: Node) -> bool:
    return isinstance(node, Assignment) and r"\in" in node.text and is_interval(node.value)


def _intersection(sets: list[Node | None], depth: int = 0) -> Node | None:
    below = [s for s in sets if is_interval_from(s, 0, r"-\infty")]
    above = [s for s in sets if is_interval_from(s, 1, r"\infty")]
    if len(below) != 1 or len(above) != 1 or below == above:
        return None
    upper, lower = below[0], above[0]
    assert isinstance(upper, Collection)
    assert isinstance(lower, Collection)
    low, high = lower.items[0], upper.items[1]
    if not (isinstance(low, Leaf) and isinstance(high, Leaf) and low.number and high.number):
        return None
    if low.number.value >= high.number.value:
        return None
    brackets = lower.brackets[0] + upper.brackets[1]
    return Collection(f"{brackets[0]}{low.text},{high.text}{brackets[1]}", brackets, (low, high))


def is_interval_from(node: Node | None, end: int, infinity: str) -> bool:
    """Return whether ``node`` is an interval that reaches ``infinity`` at its end 0 or 1."""
    return (
        isinstance(node, Collection) and len(node.items) == 2
        and node.brackets != "u" and node.items[end].text.replace("+", "") == infinity
    )  # fmt: skip


def set_builder(inner: str, depth: int = 0) -> Node | None:
    """The set of reals that ``\\{x : condition\\}`` describes, from what stands in the braces."""
    name, bar, condition = inner.partition("|" if "|" in inner.partition(":")[0] else ":")
    if not bar or not _DOMAIN.match(name.strip()):
        return None
    node = parse(condition.strip(), depth=depth)
    if isinstance(node, Relation):
        return interval_of(node, depth)
    if isinstance(node, Assignment) and r"\in" in node.text:
        return node.value
    sets = isinstance(node, Collection) and node.brackets in {"u", "()", "[)", "(]", "[]"}
    return node if sets else None


def all_reals(depth: int = 0) -> Node:
    """The interval from minus infinity to infinity."""
    return _interval(r"-\infty", "<<", r"\infty", depth)
