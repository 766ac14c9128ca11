"""The outer structure of an answer: lists, tuples, intervals, sets, matrices, assignments.

The leaves (numbers, words, expressions) are compared by `compare`; what a computer algebra system
would have to guess (is ``(1, 2)`` ordered? does ``x = 5`` answer the question of 5?) is decided
here. The README of this folder lists the decisions.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from nabla_eval.grading.intervals import all_reals, joined, set_builder
from nabla_eval.grading.nodes import (
    Assignment,
    Collection,
    Leaf,
    Matrix,
    Node,
    Relation,
    is_name,
    is_quantity,
)
from nabla_eval.grading.simple import parse_number
from nabla_eval.grading.units import split_units

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
            return set_builder(inner, _deeper(depth)) or Leaf(text)
        if len(items) > 1 or brackets == "{}":
            return _list(text, brackets, items[: MAX_ITEMS + 1], depth, grouped=False)
    parts = _split(text, _RATIO)
    if len(parts) > 1 and all(parts):
        return _list(text, ":", parts, depth, grouped)
    if re.fullmatch(r"(?:[A-Za-z] ?\\in ?)?\\mathbb ?\{?R\}?", text):
        return all_reals(_deeper(depth))
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
    if brackets == "" and (whole := joined(text, nodes, _deeper(depth)) or _systems(text, nodes)):
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


def _deeper(depth: int) -> Callable[[str], Node]:
    return lambda text: parse(text, depth=depth + 1)


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
