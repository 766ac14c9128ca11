"""Sets of real numbers in their notations: intervals, inequalities, set-builder, "or"."""

from __future__ import annotations

import re
from collections.abc import Callable

from nabla_eval.grading.nodes import Assignment, Collection, Leaf, Node, Relation, is_name

_JOIN_OR = re.compile(r"(?<![A-Za-z\\])or(?![a-z])")
_DOMAIN = re.compile(r"([A-Za-z](?:_\{[0-9a-z]\})?) ?(?:\\in ?(?:\\mathbb\{R\}|\\mathbb R|R))?\Z")
_ABSOLUTE = re.compile(r"\|[a-vxy]\|\Z")
_UP = {">": "<", r"\ge": r"\le"}
_ALL = r"\mathbb{R}"

Parse = Callable[[str], Node]


def interval_of(relation: Relation, parse: Parse) -> Node | None:
    """Interval of the one unknown that an inequality bounds; None for other relations."""
    sides, signs = list(relation.sides), list(relation.signs)
    if signs == [r"\ne"] and is_name(sides[0]) and "," not in sides[1]:
        value = parse(sides[1])
        halves = (_interval(r"-\infty", "<<", sides[1], parse),
                  _interval(sides[1], "<<", r"\infty", parse))  # fmt: skip
        return _union(halves) if isinstance(value, Leaf) else None
    if not set(signs) <= {"<", ">", r"\le", r"\ge"}:
        return None
    if set(_UP) & set(signs):
        if {"<", r"\le"} & set(signs):
            return None
        sides.reverse()
        signs = [_UP[sign] for sign in reversed(signs)]
    if len(sides) == 2 and (within := _distance(sides, "[" if signs[0] == r"\le" else "<", parse)):
        return within
    if len(sides) == 3 and is_name(sides[1]):
        low, high = sides[0], sides[2]
    elif len(sides) == 2 and is_name(sides[0]) != is_name(sides[1]):
        low, high = (r"-\infty", sides[1]) if is_name(sides[0]) else (sides[0], r"\infty")
        signs = ["<", signs[0]] if is_name(sides[0]) else [signs[0], "<"]
    else:
        return None
    return _interval(low, "".join("[" if sign == r"\le" else "<" for sign in signs), high, parse)


def _distance(sides: list[str], closed: str, parse: Parse) -> Collection | None:
    """The set of ``|x| < a`` or of ``a < |x|``; None for other sides. ``|z|`` may be complex."""
    bars = [_ABSOLUTE.match(side) is not None for side in sides]
    bound = sides[0] if bars[1] else sides[1]
    if bars[0] == bars[1] or re.search(r"[-+,]|(?<![A-Za-z\\])[A-Za-z]", bound):
        return None
    if bars[0]:
        return _interval(f"-{bound}", closed * 2, bound, parse)
    below = _interval(r"-\infty", "<" + closed, f"-{bound}", parse)
    return _union((below, _interval(bound, closed + "<", r"\infty", parse)))


def _interval(low: str, closed: str, high: str, parse: Parse) -> Collection:
    brackets = ("[" if closed[0] == "[" else "(") + ("]" if closed[1] == "[" else ")")
    text = f"{brackets[0]}{low},{high}{brackets[1]}"
    return Collection(text, brackets, (parse(low), parse(high)))


def variable(relation: Relation) -> str:
    """The unknown of an inequality of one unknown, without the bars of its absolute value."""
    names = [s.strip("|") for s in relation.sides if is_name(s) or _ABSOLUTE.match(s)]
    return names[0] if len(names) == 1 else ""


def _union(parts: tuple[Node, ...]) -> Collection:
    return Collection(r"\cup".join(part.text for part in parts), "u", parts)


def is_interval(node: Node) -> bool:
    """Whether two items stand in round or square brackets."""
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


def _as_set(node: Node, parse: Parse) -> Node | None:
    if isinstance(node, Relation):
        return interval_of(node, parse)
    value = node.value if isinstance(node, Assignment) and r"\in" in node.text else node
    return value if is_interval(value) else None


def joined(text: str, nodes: list[Node], parse: Parse) -> Node | None:
    """The set that a list of inequalities or intervals describes; None for a list of values.

    "x < 1 or x > 2" is a union; "x > 1 and x < 2", also with a comma, bounds from both sides.
    """
    if not any(isinstance(node, Relation) or _bounded(node) for node in nodes):
        return None
    sets = [_as_set(node, parse) for node in nodes]
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
        return _intersection(sets, parse)
    return None


def _bounded(node: Node) -> bool:
    return isinstance(node, Assignment) and r"\in" in node.text and is_interval(node.value)


def _intersection(sets: list[Node | None], parse: Parse) -> Node | None:
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
    """Whether ``node`` is an interval that reaches ``infinity`` at its end 0 or 1."""
    return (
        isinstance(node, Collection) and len(node.items) == 2
        and node.brackets != "u" and node.items[end].text.replace("+", "") == infinity
    )  # fmt: skip


def set_builder(inner: str, parse: Parse) -> Node | None:
    """The set of reals that ``\\{x : condition\\}`` describes, from what stands in the braces."""
    name, bar, condition = inner.partition("|" if "|" in inner.partition(":")[0] else ":")
    if not bar or not _DOMAIN.match(name.strip()):
        return None
    node = parse(condition.strip())
    if isinstance(node, Relation):
        return interval_of(node, parse)
    if isinstance(node, Assignment) and r"\in" in node.text:
        return node.value
    sets = isinstance(node, Collection) and node.brackets in {"u", "()", "[)", "(]", "[]"}
    return node if sets else None


def all_reals(parse: Parse) -> Node:
    """The interval from minus infinity to infinity."""
    return _interval(r"-\infty", "<<", r"\infty", parse)
